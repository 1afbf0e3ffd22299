"""The page that says what came out, with the paper's printed figures beside."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from aaconv._files import write_text, write_whole
from aaconv.paper import COCO_POSITIONS, printed_top1
from aaconv.reproduction.plan import ARMS, CIFAR, CLAIMS, FIGURE, IMAGENET, MECHANISMS, POSITIONS, SHARES, TASKS
from aaconv.reproduction.plots import plot_mechanisms, plot_shares
from aaconv.reproduction.runs import Outcome
from aaconv.reproduction.statistics import difference, interval, verdict
from aaconv.training.records import environment

PAGE = "index.md"
Results = dict[str, dict[str, list[float]]]  # accuracies by task, arm and seed


def write_page(folder: Path, outcomes: Sequence[Outcome], workers: int) -> Path:
    """``index.md`` and its pictures in ``folder``."""
    results: Results = {}
    for outcome in outcomes:
        results.setdefault(outcome.task, {}).setdefault(outcome.arm, []).append(outcome.accuracy)
    for name, figure in (("shares.png", plot_shares(results)), ("mechanisms.png", plot_mechanisms(results))):
        write_whole(folder / name, lambda beside, figure=figure: figure.savefig(beside, dpi=110, format="png"))
    sections = [
        _head(outcomes, workers),
        _verdicts(results),
        _mechanisms(results, outcomes),
        _positions(results),
        _shares(results),
    ]
    write_text(folder / PAGE, "\n\n".join(sections) + "\n")
    return folder / PAGE


def _head(outcomes: Sequence[Outcome], workers: int) -> str:
    tasks, seeds = {outcome.task for outcome in outcomes}, len({outcome.seed for outcome in outcomes})
    found, steps = environment(), sorted({outcome.steps for outcome in outcomes})
    hardware = ", ".join(found["gpus"]) or f"{found['cpus']} cores of {found['processor']}"
    packages = ", ".join(f"{name} {found['packages'][name]}" for name in ("torch", "timm", "numba"))
    hours = sum(outcome.seconds for outcome in outcomes) / 3600
    return f"""# The paper's comparisons in miniature

Small networks (about 45,000 parameters, attention in the last two of four blocks) on two embedded tasks of 24x24 pixels:

{chr(10).join(f"* {TASKS[task].title}: chance is {TASKS[task].chance:.0%}" for task in TASKS if task in tasks)}

Each of {len({outcome.arm for outcome in outcomes})} networks was trained with {seeds} seeds for {_join(steps)} steps of 64
images; a seed means the same images in the same order for all. Figures are percent of 4,000 held-out canvases told right
after the last step, mean and 95% interval over seeds (Student's t). It says how these networks do here after this little
training; it does not replace CIFAR-100 or ImageNet, whose figures stand beside for comparison of the order alone.

`aaconv reproduce --seeds {seeds}`, {len(outcomes)} runs, {hours:.1f} hours of training, {workers} runs at a time, on {hardware};
aaconv {found["aaconv"]}, {packages}, Python {platform.python_version()}. Every run is a row of [results.csv](results.csv)."""


def _verdicts(results: Results) -> str:
    rows = []
    for claim in CLAIMS:
        cells = [f"{claim.text} ({claim.source})"]
        for found in results.values():
            gap = difference(claim, found)
            cells.append(f"**{verdict(gap)}**: {100 * gap.mean:+.1f} ± {100 * gap.reach:.1f}")
        rows.append(cells)
    return (
        "## Does the paper's order hold?\n\n"
        "Differences in points, paired by seed. *Holds*: the 95% interval lies above 0; *does not hold*: below; "
        f"*undecided*: it contains 0. With {len(CLAIMS) * len(results)} verdicts one or two may be chance.\n\n"
        + _table(["the paper's order", *_titles(results)], rows)
    )


def _mechanisms(results: Results, outcomes: Sequence[Outcome]) -> str:
    sizes = {outcome.arm: outcome.parameters for outcome in outcomes}
    rows = [
        [
            ARMS[arm].label,
            f"{sizes[arm]:,}",
            *(_percent(found[arm]) for found in results.values()),
            *(_printed(ARMS[arm].paper.get(name)) for name in (CIFAR, IMAGENET)),
        ]
        for arm in MECHANISMS
    ]
    header = ["", "parameters", *_titles(results), f"paper: {CIFAR}", f"paper: {IMAGENET}"]
    return (
        "## Attention beside convolution, and its rivals\n\n"
        "The paper's attention takes 10% of the channels in these two columns, ours 25%: a tenth of 32 channels is too "
        "few for four heads.\n\n" + _table(header, rows) + "\n\n![Accuracy of each network](mechanisms.png)"
    )


def _positions(results: Results) -> str:
    rows = [
        [
            position,
            *(_percent(found[arm]) for found in results.values()),
            *(_printed(printed_top1(7, f"{model}, {position}")) for model in ("AA-ResNet-34", "AA-ResNet-50")),
            _printed(COCO_POSITIONS.get(position)),
        ]
        for position, arm in POSITIONS.items()
    ]
    header = ["positions", *_titles(results), "paper: AA-ResNet-34", "paper: AA-ResNet-50", "paper: COCO, mAP"]
    return "## Positions\n\nWith a quarter of the channels from attention.\n\n" + _table(header, rows)


def _shares(results: Results) -> str:
    rows = [["0%", "", *(_percent(found["plain"]) for found in results.values()), _printed(printed_top1(6, "0%"))]]
    for share in SHARES:
        for arm, words in ((f"aa{share}", "relative"), (f"aa{share}-none", "none")):
            cells = (_percent(found[arm]) for found in results.values())
            rows.append([f"{share}%", words, *cells, _printed(ARMS[arm].paper[FIGURE])])
    header = ["share", "positions", *_titles(results), f"paper: {FIGURE}"]
    return (
        "## Share of attention\n\n" + _table(header, rows) + "\n\n"
        "![Accuracy against the share of attention, with and without relative positions](shares.png)\n\n"
        "*The right panel is drawn from the paper's figure 4.*"
    )


def _titles(results: Results) -> list[str]:
    return [TASKS[task].title for task in results]


def _percent(values: Sequence[float]) -> str:
    found = interval(values)
    return f"{100 * found.mean:.1f} ± {100 * found.reach:.1f}"


def _printed(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _join(values: Sequence[int]) -> str:
    return " or ".join(f"{value:,}" for value in values)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
