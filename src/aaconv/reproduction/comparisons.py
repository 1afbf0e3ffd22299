"""The page's tables: every figure is an outcome's or the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from aaconv.reproduction.cells import MISSING, judged, percent, printed, printed_gaps, span, table
from aaconv.reproduction.plan import (
    AA_RESNETS,
    ARMS,
    CIFAR,
    CLAIMS,
    COCO,
    EXPERIMENTS,
    FIGURE,
    IMAGENET,
    MECHANISMS,
    POSITIONS,
    SHARES,
    TASKS,
)
from aaconv.reproduction.plots import Results
from aaconv.reproduction.runs import Outcome
from aaconv.reproduction.statistics import LEVEL


def verdicts(results: Results) -> str:
    """Each claim with its difference in the paper and its verdict on each task."""
    rows, count = [], 0
    for claim in CLAIMS:
        cells = [judged(claim, found) for found in results.values()]
        count += sum(name != MISSING for name, _ in cells)
        rows.append([claim.text, printed_gaps(claim), *(f"**{name}** {gap}" if gap else name for name, gap in cells)])
    words = (
        f"Differences in points, paired by seed. *Holds*: the {LEVEL:.0%} interval lies above 0; *does not hold*: it "
        "lies below; *undecided*: it contains 0. There is no correction for many comparisons: were all networks equal, "
        f"about {(1 - LEVEL) * count:.1f} of these {count} verdicts would still not be *undecided*."
    )
    header = ["the paper's order", "difference in the paper", *titles(results)]
    return f"## Does the paper's order hold?\n\n{words}\n\n{table(header, rows)}"


def mechanisms(results: Results, outcomes: Sequence[Outcome]) -> str:
    """The paper's tables 1 and 2."""
    sizes, names = _sizes(outcomes), (CIFAR, IMAGENET)
    rows = [
        [ARMS[arm].label, sizes.get(arm, MISSING), *_percents(results, arm), *_paper(arm, *names)] for arm in MECHANISMS
    ]
    words = (
        "The paper's attention takes 10% of the channels in these two columns, ours 25%: a tenth of 32 channels is too "
        "few for four heads."
    )
    shown = table(["", "parameters", *titles(results), *_papers(*names)], rows)
    picture = "![Accuracy of each network: every seed, mean and interval](mechanisms.png)"
    return f"## Attention beside convolution, and its rivals\n\n{words}\n\n{shown}\n\n{picture}"


def positions(results: Results) -> str:
    """The paper's tables of position encodings."""
    names = (*AA_RESNETS, COCO)
    rows = [[position, *_percents(results, arm), *_paper(arm, *names)] for position, arm in POSITIONS.items()]
    shown = table(["positions", *titles(results), *_papers(*names)], rows)
    return f"## Positions\n\nWith a quarter of the channels from attention.\n\n{shown}"


def shares(results: Results) -> str:
    """The paper's figure 4."""
    arms = [("0%", "", "plain")]
    arms += [(f"{share}%", "relative", f"aa{share}") for share in SHARES]
    arms += [(f"{share}%", "none", f"aa{share}-none") for share in SHARES]
    rows = [[share, position, *_percents(results, arm), *_paper(arm, FIGURE)] for share, position, arm in arms]
    shown = table(["share", "positions", *titles(results), *_papers(FIGURE)], rows)
    picture = "![Accuracy against the share of attention, with and without relative positions](shares.png)"
    return (
        f"## Share of attention\n\n{shown}\n\n{picture}\n\n*The right panel is drawn from the paper's figure 4; scales "
        "differ.*"
    )


def networks(results: Results, outcomes: Sequence[Outcome]) -> str:
    """Every arm: what it is, its size, mean and extremes."""
    sizes, rows = _sizes(outcomes), []
    for name, arm in ARMS.items():
        model = " ".join([f"`{arm.model}`", *(f"{key}={value}" for key, value in arm.options.items())])
        seeds = [found.get(name, {}).values() for found in results.values()]
        cells = [cell for values in seeds for cell in (percent(values), span(values))]
        rows.append([arm.label, model, sizes.get(name, MISSING), *cells])
    words = (
        "Parameters differ between the tasks by their classes. Where lowest and highest lie far apart, some seeds "
        "learnt the task and others did not, and a mean says little."
    )
    header = ["", "network", "parameters", *(text for title in titles(results) for text in (title, "lowest, highest"))]
    return f"## All networks\n\n{words}\n\n{table(header, rows)}"


def titles(results: Results) -> list[str]:
    """Of the tasks that there are outcomes of."""
    return [TASKS[task].title for task in results]


def _sizes(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Parameters of each arm, one number a task where they differ."""
    sizes: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        sizes.setdefault(outcome.arm, {})[outcome.task] = f"{outcome.parameters:,}"
    return {arm: " / ".join(dict.fromkeys(found.values())) for arm, found in sizes.items()}


def _percents(results: Results, arm: str) -> list[str]:
    return [percent(found.get(arm, {}).values()) for found in results.values()]


def _paper(arm: str, *names: str) -> list[str]:
    return [printed(ARMS[arm].paper.get(name)) for name in names]


def _papers(*names: str) -> list[str]:
    return [f"paper: {EXPERIMENTS[name]}" for name in names]
