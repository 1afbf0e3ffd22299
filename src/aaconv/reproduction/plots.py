"""Pictures of the comparisons. Each function returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from aaconv.reproduction.plan import ARMS, EXPERIMENTS, FIGURE, MECHANISMS, SHARES, TASKS
from aaconv.reproduction.statistics import Accuracies, interval
from aaconv.training.curves import COLOURS

Results = Mapping[str, Accuracies]  # by task
# Told apart by marker and dashes too, in print and by colour-blind readers: name, ending of the arms, how far to the
# side of the share, so that intervals do not cover each other, and drawing.
LINES = (
    ("relative positions", "", -1, {"color": COLOURS[0], "marker": "o", "linestyle": "-"}),
    ("no positions", "-none", 1, {"color": COLOURS[1], "marker": "s", "linestyle": "--"}),
)


def plot_shares(results: Results) -> Figure:
    """A panel a task in the shape of the paper's figure 4, and that figure's values beside."""
    figure = Figure(figsize=(3.6 * (len(results) + 1), 3.4), layout="constrained")
    panels = figure.subplots(1, len(results) + 1, squeeze=False)[0]
    for axes, (task, found) in zip(panels, results.items(), strict=False):
        for name, ending, shift, style in LINES:
            _draw_means(axes, found, _arms(ending), shift, style | {"label": name})
        _draw_chance(axes.axhline, axes.get_ylim(), task)
        axes.set_title(TASKS[task].title, fontsize=9)
    for name, ending, _, style in LINES:
        panels[-1].plot((0, *SHARES), [ARMS[arm].paper[FIGURE].value for arm in _arms(ending)], label=name, **style)
    panels[-1].set_title(f"paper: {EXPERIMENTS[FIGURE]}", fontsize=9)
    for axes in panels:
        axes.set(xlabel="share of attention channels, %", xticks=(0, *SHARES), xlim=(-5, 105))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %")
    # Above the panels: inside, it would cover lines that lie elsewhere in every run.
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False
    )
    return figure


def plot_mechanisms(results: Results) -> Figure:
    """Accuracy of each kind of network, a panel a task: mean and interval, below them a dot a seed."""
    figure = Figure(figsize=(4.4 * len(results), 2.8), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for axes, (task, found) in zip(panels, results.items(), strict=True):
        for row, arm in enumerate(reversed(MECHANISMS)):
            values = [100 * value for value in found.get(arm, {}).values()]
            axes.plot(values, [row - 0.25] * len(values), ".", color="0.5")
            if len(values) > 1:
                mean = interval(values)
                axes.errorbar(mean.mean, row, xerr=mean.reach, fmt="o", capsize=3, color=COLOURS[0])
        _draw_chance(axes.axvline, axes.get_xlim(), task)
        axes.set_yticks(range(len(MECHANISMS)), [ARMS[arm].label for arm in reversed(MECHANISMS)], fontsize=8)
        axes.set(xlabel="accuracy, %")
        axes.set_title(TASKS[task].title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _arms(ending: str) -> list[str]:
    return ["plain", *(f"aa{share}{ending}" for share in SHARES)]


def _draw_means(axes: Any, found: Accuracies, arms: Sequence[str], shift: int, style: dict[str, str]) -> None:
    """Means and intervals against the share, of the arms that have an interval."""
    seeds = {share + shift: [*found.get(arm, {}).values()] for share, arm in zip((0, *SHARES), arms, strict=True)}
    means = {share: interval(values) for share, values in seeds.items() if len(values) > 1}
    values = [100 * mean.mean for mean in means.values()]
    axes.errorbar(list(means), values, yerr=[100 * mean.reach for mean in means.values()], capsize=3, **style)


def _draw_chance(draw: Callable[..., Any], limits: tuple[float, float], task: str) -> None:
    """The chance of a task where it lies among the values: elsewhere it would squeeze them."""
    chance = 100 * TASKS[task].chance
    if limits[0] <= chance <= limits[1]:
        draw(chance, label="chance", color="0.5", linewidth=0.8, linestyle=":")
