"""Train the checkpoints of ``aaconv.zoo`` by our own recipes, measure the files that are shipped, write their cards.

Finished runs in the work folder are taken as they are, others go on: give the command again after a stop.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save

from aaconv._files import write_text, write_whole
from aaconv.data.digit_pairs import DigitPairs, digit_pairs
from aaconv.detection import evaluate as boxes
from aaconv.detection import run as detection
from aaconv.detection.config import DetectionRecipe
from aaconv.training import evaluate as classes
from aaconv.training import run as classification
from aaconv.training.checkpoint import load_checkpoint
from aaconv.training.config import Recipe, RunConfig, changes
from aaconv.training.fit import WEIGHTS
from aaconv.training.intervals import paired_bootstrap
from aaconv.training.predict import probabilities
from aaconv.training.recipes import load_recipe, read_yaml
from aaconv.training.records import CONFIG, ENVIRONMENT
from aaconv.zoo import FOLDER, SUFFIX

SCANS = (
    "the 1,797 scans of handwritten digits (8x8 pixels) of the UCI data set *Optical Recognition of Handwritten "
    "Digits*, as scikit-learn ships them; three quarters are for training, the rest for the test figures"
)


@dataclass(frozen=True)
class Row:
    """One checkpoint: what it is, how it is trained and measured."""

    heading: str
    recipe: str
    data: str
    measure: Callable[[Path], str]
    changes: tuple[str, ...] = ()
    detector: bool = False

    @property
    def command(self) -> str:
        words = ["aaconv", *(["detect"] if self.detector else []), "train", self.recipe]
        return " ".join([*words, *(change.replace("=", " ", 1) for change in self.changes)])


def pair_accuracy(path: Path) -> str:
    """With the interval over the held-out scans."""
    model, card = load_checkpoint(path)
    test = digit_pairs().val
    assert isinstance(test, DigitPairs)
    correct = probabilities(model, card, test.images).argmax(dim=1) == test.labels
    low, high = paired_bootstrap(correct, test.scans)
    return (
        f"{correct.float().mean():.1%} of {len(correct):,} test canvases right, 95% interval {low:.1%} to {high:.1%} "
        "(of this network on other scans, not of other runs)"
    )


def clutter_accuracy(path: Path) -> str:
    """On all test canvases."""
    found = classes.evaluate(path, "clutter")
    return f"{found.accuracy:.1%} of {found.images:,} test canvases right"


def box_scores(path: Path) -> str:
    """COCO's figures."""
    found = boxes.evaluate(path)
    return f"mAP {found.map:.1%} at IoU .50 to .95 on {found.images:,} test images, {found.map50:.1%} at .50"


PAIRS = f"two scans on one 32x32 canvas, the same digit or two different ones; {SCANS}"
ROWS = {
    "digits": Row("Same digit or not, far apart on one canvas", "digits", PAIRS, pair_accuracy),
    "digits_no_positions": Row(
        "Same digit or not, attention without positions",
        "digits",
        PAIRS,
        pair_accuracy,
        ("--model.options.position=none",),
    ),
    "clutter": Row(
        "Which digit, among pieces of others", "clutter", f"a scan among pieces of others; {SCANS}", clutter_accuracy
    ),
    "detect_digits": Row(
        "Digits found on photographs",
        "detect_digits",
        f"digits painted on parts of photographs of scikit-image and scikit-learn, a synthetic composition; {SCANS}",
        box_scores,
        detector=True,
    ),
}

CARD = """# {heading}

| | |
|---|---|
| network | `{model}`, {parameters:,} parameters |
| made by | `{command}` |
| data | {data} |
| seed | {seed} |
| measured on this file | {figure} |
| as trained, in float32 | {before} |
| training | {minutes:.1f} minutes by the clock; {machine} |
| file | {size:,} bytes; weights rounded to float16, computed with in float32 |

For looking at attention and for trying the commands. Toy data of one kind: it knows nothing of other images.
Weights under Apache-2.0.
"""


def main() -> None:
    """Make those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--work", default="runs/checkpoints", help="folder of the runs")
    parser.add_argument("--out", default=str(FOLDER), help="where checkpoints and cards go")
    options = parser.parse_args()
    for name in options.names:
        make(name, ROWS[name], Path(options.work) / name, Path(options.out))


def make(name: str, row: Row, run: Path, out: Path) -> None:
    """Train, round, measure, tell."""
    kind, engine = (DetectionRecipe, detection) if row.detector else (Recipe, classification)
    recipe = load_recipe(row.recipe, list(row.changes), kind)
    weights = run / WEIGHTS
    if weights.is_file():  # starting a finished run again would note this machine as its own
        expect_same(recipe, run)
    else:
        engine.train(recipe, run)
    shipped = out / f"{name}{SUFFIX}"
    round_weights(weights, shipped)
    model, card = load_checkpoint(shipped, detector=row.detector)
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        seconds = sum(float(epoch["seconds"]) for epoch in csv.DictReader(file))
    text = CARD.format(
        heading=row.heading,
        model=card.model,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        command=row.command,
        data=row.data,
        seed=recipe.seed,
        figure=row.measure(shipped),
        before=row.measure(weights),
        minutes=seconds / 60,
        machine=machine(run),
        size=shipped.stat().st_size,
    )
    write_text(out / f"{name}.md", text)
    print(text)


def expect_same(recipe: RunConfig, run: Path) -> None:
    """The card names the recipe of today, so that a finished run must be of it.

    Raises:
        ValueError: It is of another.
    """
    if different := changes(read_yaml(run / CONFIG), recipe):
        raise ValueError(f"{run} must hold the run of its row, got other values: {', '.join(different)}; remove it")


def machine(run: Path) -> str:
    """What a run was made on."""
    found = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    threads = "one thread" if found["threads"] == 1 else f"{found['threads']} threads"
    versions = f"torch {found['packages']['torch']}, Python {found['python']}, aaconv {found['aaconv']}"
    return f"{threads} of an {found['processor']}, {versions}"


def round_weights(source: Path, target: Path) -> None:
    """The same file with its floats in float16."""
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    halves = {n: value.half() if value.is_floating_point() else value for n, value in load_file(source).items()}
    write_whole(target, partial(Path.write_bytes, data=save(halves, metadata)))


if __name__ == "__main__":
    main()
