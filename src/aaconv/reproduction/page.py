"""The page that says what came out, with the paper's printed figures beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from aaconv._files import write_text, write_whole
from aaconv.reproduction.cells import MISSING, judged
from aaconv.reproduction.comparisons import mechanisms, networks, positions, shares, verdicts
from aaconv.reproduction.plan import CLAIMS, HELD_OUT, TASKS
from aaconv.reproduction.plots import Results, plot_mechanisms, plot_shares
from aaconv.reproduction.runs import Job, Outcome, environments, recipe_of
from aaconv.reproduction.statistics import LEVEL

PAGE = "index.md"
# How a count of verdicts is told: one, many.
TOLD = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "undecided": ("is undecided", "are undecided"),
    MISSING: ("waits for runs", "wait for runs"),
}


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    jobs: Sequence[Job]
    overrides: Sequence[str]
    workers: int
    command: str


def write_page(folder: Path, outcomes: Sequence[Outcome], request: Request) -> Path:
    """``index.md`` and its pictures in ``folder``, of all runs or of those that are finished so far, at least one."""
    results: dict[str, dict[str, dict[int, float]]] = {}
    for outcome in outcomes:
        results.setdefault(outcome.task, {}).setdefault(outcome.arm, {})[outcome.seed] = outcome.accuracy
    _save(plot_shares(results), folder / "shares.png")
    _save(plot_mechanisms(results), folder / "mechanisms.png")
    sections = [
        _summary(results, len(outcomes), len(request.jobs)),
        _method(outcomes, request),
        verdicts(results),
        mechanisms(results, outcomes),
        positions(results),
        shares(results),
        networks(results, outcomes),
        _origin(folder, outcomes, request),
    ]
    write_text(folder / PAGE, "\n\n".join(sections) + "\n")
    return folder / PAGE


def _summary(results: Results, done: int, planned: int) -> str:
    sentences = []
    for task, found in results.items():
        counts = Counter(judged(claim, found)[0] for claim in CLAIMS)
        told = ", ".join(f"{counts[name]} {TOLD[name][counts[name] > 1]}" for name in TOLD if counts[name])
        sentences.append(f"On *{TASKS[task].title}*, of {len(CLAIMS)} orderings of the paper {told}.")
    early = f"**{done} of {planned} runs are finished: what follows may change.**\n\n" if done < planned else ""
    return f"# The paper's comparisons in miniature\n\n{early}{' '.join(sentences)}"


def _method(outcomes: Sequence[Outcome], request: Request) -> str:
    recipe = recipe_of(request.jobs[0], request.overrides)
    sizes = [outcome.parameters for outcome in outcomes]
    arms, seeds = ({getattr(outcome, name) for outcome in outcomes} for name in ("arm", "seed"))
    steps = " or ".join(f"{count:,}" for count in sorted({outcome.steps for outcome in outcomes}))
    tasks = dict.fromkeys(outcome.task for outcome in outcomes)
    lines = "\n".join(f"* {TASKS[task].title}: chance is {TASKS[task].chance:.0%}" for task in tasks)
    return (
        f"## What was done\n\n{len(arms)} small networks of {min(sizes):,} to {max(sizes):,} parameters, four residual "
        "blocks each, attention in the last two, on embedded images of "
        f"{recipe.data.size}x{recipe.data.size} pixels:\n\n{lines}\n\n"
        f"Seeds: {len(seeds)}. A seed means the same images in the same order for all networks, so that they are "
        f"compared in pairs. All were trained alike: {steps} steps of {recipe.batch_size} images, "
        f"{recipe.optimizer.name}, peak learning rate {recipe.optimizer.lr:g}. This is one rate for all, tuned for no "
        "network of its own; with its own each may do better, and the order may be another.\n\n"
        f"Accuracy is percent of the same {HELD_OUT:,} held-out canvases, right after the last step: mean ± reach of "
        f"the {LEVEL:.0%} interval over seeds (Student's t). It tells what other seeds would give, not other canvases "
        "or longer training, and takes differences to be about normal: a rough guide where some seeds learn the task "
        "and others do not. The paper's figures are of other networks on other data; they stand beside to compare "
        "orders, not numbers."
    )


def _origin(folder: Path, outcomes: Sequence[Outcome], request: Request) -> str:
    hours = sum(outcome.seconds for outcome in outcomes) / 3600
    changed = " ".join(item for item in request.overrides if item not in request.command)
    machines = [f"* {text} ({count} run{'s' * (count > 1)})" for text, count in environments(folder, outcomes)]
    return (
        f"## How this page was made\n\n`{request.command}`{f' with {changed}' if changed else ''}: {len(outcomes)} "
        f"runs, {request.workers} at a time, {hours:.1f} hours of training together by the clock, whatever else the "
        "machine did. Every run is a row of [results.csv](results.csv) and, where they were made, a folder "
        "TASK/NETWORK/SEED with its configuration. Made on:\n\n" + "\n".join(machines or ["* unknown machines"])
    )


def _save(figure: Figure, path: Path) -> None:
    write_whole(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))
