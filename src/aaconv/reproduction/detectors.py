"""Detectors compared over seeds: each trained by one recipe, and a page that states the difference as it is."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from aaconv._checks import expect_int
from aaconv._files import write_text
from aaconv.detection.config import DetectionRecipe
from aaconv.detection.run import expect_detector, train
from aaconv.reproduction.runs import environments_in, write_rows
from aaconv.reproduction.statistics import LEVEL, Interval, interval, verdict
from aaconv.training.callbacks import METRICS
from aaconv.training.checkpoint import load_checkpoint
from aaconv.training.config import changes
from aaconv.training.fit import WEIGHTS
from aaconv.training.recipes import load_recipe, read_yaml
from aaconv.training.records import CONFIG, ENVIRONMENT

PAGE, RESULTS = "index.md", "results.csv"
FIGURES = {"map": "mAP", "map50": "mAP50", "map75": "mAP75"}


@dataclass(frozen=True)
class Outcome:
    """What came of a run, measured on held-out images after the last epoch."""

    model: str
    seed: int
    map: float
    map50: float
    map75: float
    parameters: int
    steps: int
    seconds: float


def compare(
    folder: str | Path, recipe: str, models: Sequence[str], *, seeds: int = 3, overrides: Sequence[str] = ()
) -> Path:
    """Train each model with each seed, one after the other, and write a page; finished runs are not made again.

    Args:
        folder: Gets the page, a CSV of all runs, and a folder MODEL/SEED of each; what was cut goes on.
        recipe: As ``aaconv detect train`` takes it.
        models: At least two detectors; the first is compared with each other one.
        seeds: Runs of each, 0 to ``seeds`` - 1, at least two. Runs of one seed see the same images in the same order.
        overrides: Further changes of the recipe.

    Raises:
        ValueError, FileNotFoundError: As of training; or too few models or seeds.
    """
    folder = Path(folder)
    expect_int("seeds", seeds, minimum=2)
    if len(models) < 2 or len(set(models)) < len(models):
        raise ValueError(f"models must be at least two different detectors, got {', '.join(models)}")
    for model in models:
        expect_detector(model)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("detectors are compared in one process on one device; start it without a launcher")
    overrides = [*overrides, "--machine.devices=1"]
    recipes = {
        (model, seed): load_recipe(recipe, [*overrides, f"--model.name={model}", f"--seed={seed}"], DetectionRecipe)
        for seed in range(seeds)
        for model in models
    }
    outcomes = [perform(folder / model / str(seed), made) for (model, seed), made in recipes.items()]
    _write_results(folder / RESULTS, outcomes)
    write_text(folder / PAGE, page(outcomes, recipe, next(iter(recipes.values())), folder))
    return folder / PAGE


def perform(folder: Path, recipe: DetectionRecipe) -> Outcome:
    """Train one run to its end, unless it is there."""
    if not (folder / WEIGHTS).exists() or changes(read_yaml(folder / CONFIG), recipe):
        train(recipe, folder, title=f"{recipe.model.name}, seed {recipe.seed}")
    model, _ = load_checkpoint(folder / WEIGHTS, detector=True)
    try:
        with (folder / METRICS).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return Outcome(
            model=recipe.model.name,
            seed=recipe.seed,
            **{name: float(rows[-1][f"val_{name}"]) for name in FIGURES},
            parameters=sum(value.numel() for value in model.parameters()),
            steps=int(float(rows[-1]["step"])),
            seconds=math.fsum(float(row["seconds"]) for row in rows),
        )
    except (OSError, IndexError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / METRICS} is damaged ({error}); remove {folder} to make the run again") from error


def page(outcomes: Sequence[Outcome], name: str, recipe: DetectionRecipe, folder: Path) -> str:
    """The comparison in words and tables."""
    models = list(dict.fromkeys(outcome.model for outcome in outcomes))
    first, *others = models
    sections = [
        "# Detectors compared",
        "\n\n".join(_difference(outcomes, first, other) for other in others),
        _table(outcomes, models),
        f"mAP is COCO's, the mean over IoU .50 to .95 and classes, in percent; ± is the reach of the {LEVEL:.0%} "
        "interval of the mean over seeds (Student's t). It tells what other seeds would give, not other images.",
        "## Every run",
        _runs(outcomes),
        _origin(outcomes, name, recipe, folder),
    ]
    return "\n\n".join(sections) + "\n"


def _difference(outcomes: Sequence[Outcome], first: str, other: str) -> str:
    """A sentence about two models, their seeds paired."""
    values = {model: {o.seed: o.map for o in outcomes if o.model == model} for model in (first, other)}
    gap = interval([round(values[first][seed] - values[other][seed], 9) for seed in values[first]])
    told = {"holds": "is better", "does not hold": "is worse", "undecided": "differs by less than seeds do: undecided"}
    low, high = (f"{100 * end:+.1f}" for end in (gap.low, gap.high))
    return (
        f"mAP of `{first}` less that of `{other}`, seed by seed: **{100 * gap.mean:+.1f} points** ({LEVEL:.0%} "
        f"interval {low} to {high}, {gap.count} seeds). `{first}` {told[verdict(gap)]}."
    )


def _table(outcomes: Sequence[Outcome], models: Sequence[str]) -> str:
    lines = [f"| detector | parameters | {' | '.join(FIGURES.values())} | training |", "|---|---|---|---|---|---|"]
    for model in models:
        own = [outcome for outcome in outcomes if outcome.model == model]
        figures = " | ".join(_percent(interval([getattr(o, name) for o in own])) for name in FIGURES)
        minutes = math.fsum(outcome.seconds for outcome in own) / len(own) / 60
        lines.append(f"| {model} | {own[0].parameters:,} | {figures} | {minutes:.1f} min |")
    return "\n".join(lines)


def _runs(outcomes: Sequence[Outcome]) -> str:
    lines = [f"| detector | seed | {' | '.join(FIGURES.values())} | minutes |", "|---|---|---|---|---|---|"]
    for one in outcomes:
        figures = " | ".join(f"{100 * getattr(one, name):.1f}" for name in FIGURES)
        lines.append(f"| {one.model} | {one.seed} | {figures} | {one.seconds / 60:.1f} |")
    return "\n".join(lines)


def _percent(found: Interval) -> str:
    return f"{100 * found.mean:.1f} ± {100 * found.reach:.1f}"


def _origin(outcomes: Sequence[Outcome], name: str, recipe: DetectionRecipe, folder: Path) -> str:
    places = [folder / outcome.model / str(outcome.seed) / ENVIRONMENT for outcome in outcomes]
    machines = [f"* {text} ({count} run{'s' * (count > 1)})" for text, count in environments_in(places)]
    return (
        f"## How this page was made\n\nRecipe `{name}`: {recipe.epochs} epochs, {outcomes[0].steps:,} steps of "
        f"{recipe.batch_size} images, {recipe.optimizer.name}, peak learning rate {recipe.optimizer.lr:g}, the same "
        "for all and tuned for none of them alone; all else but the detector is the same too. Times are by the clock, "
        "evaluation after each epoch included. Every run is a row of [results.csv](results.csv). Made on:\n\n"
        + "\n".join(machines)
    )


def _write_results(path: Path, outcomes: Sequence[Outcome]) -> None:
    write_rows(path, [entry.name for entry in fields(Outcome)], [asdict(outcome).values() for outcome in outcomes])
