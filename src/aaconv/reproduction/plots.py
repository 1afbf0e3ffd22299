"""Pictures of the comparisons. Each function returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from aaconv.paper import FIGURE_4, printed_top1
from aaconv.reproduction.plan import ARMS, MECHANISMS, SHARES, TASKS
from aaconv.reproduction.statistics import interval
from aaconv.training.curves import COLOURS

Results = Mapping[str, Mapping[str, Sequence[float]]]


def plot_shares(results: Results) -> Figure:
    """A panel a task in the shape of the paper's figure 4, and that figure's values beside."""
    figure = Figure(figsize=(3.6 * (len(results) + 1), 3.2), layout="constrained")
    panels = figure.subplots(1, len(results) + 1, squeeze=False)[0]
    for axes, (task, found) in zip(panels, results.items(), strict=False):
        for colour, name, ending in ((COLOURS[0], "with positions", ""), (COLOURS[1], "without", "-none")):
            arms = ["plain", *(f"aa{share}{ending}" for share in SHARES)]
            _line(axes, [interval(found[arm]) for arm in arms], colour, name)
        axes.set_title(TASKS[task].title, fontsize=9)
    paper = panels[-1]
    for colour, name, place in ((COLOURS[0], "with positions", 0), (COLOURS[1], "without", 1)):
        values = [printed_top1(6, "0%"), *(FIGURE_4[share][place] for share in SHARES)]
        paper.plot((0, *SHARES), values, "o-", color=colour, label=name)
    paper.set_title("paper: ImageNet, ResNet-50", fontsize=9)
    for axes in panels:
        axes.set(xlabel="share of attention channels, %", xticks=(0, *SHARES))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %")
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def plot_mechanisms(results: Results) -> Figure:
    """Accuracy of each kind of network, a panel a task: a dot a seed, mean and interval."""
    figure = Figure(figsize=(4.4 * len(results), 2.8), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for axes, (task, found) in zip(panels, results.items(), strict=True):
        for row, arm in enumerate(reversed(MECHANISMS)):
            mean = interval(found[arm])
            axes.plot([100 * value for value in found[arm]], [row] * len(found[arm]), ".", color="0.6")
            axes.errorbar(100 * mean.mean, row, xerr=100 * mean.reach, fmt="o", capsize=3, color=COLOURS[0])
        axes.set_yticks(range(len(MECHANISMS)), [ARMS[arm].label for arm in reversed(MECHANISMS)], fontsize=8)
        axes.set(xlabel="accuracy, %")
        axes.set_title(TASKS[task].title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _line(axes: Any, means: Sequence[Any], colour: str, name: str) -> None:
    values, reaches = (
        [100 * value for value in column] for column in zip(*((m.mean, m.reach) for m in means), strict=True)
    )
    axes.errorbar((0, *SHARES), values, yerr=reaches, fmt="o-", capsize=3, color=colour, label=name)
