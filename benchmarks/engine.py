"""What the training engine costs beside a bare loop of PyTorch, and what a run costs until it trains.

The set-up is the demonstration's. Both train the same network from the same weights on the same batches, taking turns
step by step: while the engine waits for its next batch the bare loop does its step, so that whatever else the machine
does meets both. In the end their weights must be equal to the bit. "bare again" is a second bare loop in the engine's
place, which says how far the figures can be trusted.

Run: python benchmarks/engine.py [--steps 60] [--rounds 3] [--out FOLDER] [--KEY=VALUE of the recipe ...]
     python benchmarks/engine.py --startup [--cold] [--rounds 3] [--out FOLDER]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import machine
from timing import milliseconds
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from aaconv._files import write_text
from aaconv.data.digit_pairs import digit_pairs
from aaconv.data.splits import Draw, ImageData
from aaconv.training import run as runs
from aaconv.training.config import Recipe
from aaconv.training.loaders import Batch, Plan, Share, train_loader
from aaconv.training.optimization import build_optimizer, build_schedule
from aaconv.training.recipes import load_recipe

WARM, CHECKED = 5, 4  # steps left out; steps of the check that comes first
CPU = torch.device("cpu")
Row = dict[str, Any]
Trainer = Callable[[Recipe, ImageData, "Turns"], nn.Module]

# Given to a fresh Python: the command line as it is, but the first steps say when they are.
UNTIL_STEP = """
import os, sys, time
from aaconv.training.task import ClassificationTask
step, calls = ClassificationTask.training_step, []
def said(*arguments):
    calls.append(print(time.time(), flush=True))
    return step(*arguments) if len(calls) < 2 else os._exit(0)
ClassificationTask.training_step = said
from aaconv.cli import main
sys.exit(main(sys.argv[1:]))
"""


def main() -> int:
    options = _options()
    recipe = load_recipe("digits", ["--machine.accelerator=cpu", "--epochs=1", *options.changes])
    report: dict[str, Any] = {"machine": machine(), "model": recipe.model.name, "batch": recipe.batch_size}
    if options.startup:
        report["bytecode"] = not sys.dont_write_bytecode  # without it every start compiles all packages' sources
        report["rows"] = startup(options.rounds, options.cold)
        print(f"bytecode kept: {report['bytecode']}")
    else:
        wrong = [name for name, trainer in TRAINERS.items() if not compare(trainer, recipe, CHECKED).equal]
        if wrong:
            print(f"not timed: {', '.join(wrong)} ended with other weights than the bare loop", file=sys.stderr)
            return 1
        report["rows"] = measure(recipe, options.steps, options.rounds)
    print(report["machine"])
    if options.out:
        name = "startup.json" if options.startup else "engine.json"
        write_text(options.out / name, json.dumps(report, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help=f"of a round, the first {WARM} left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write engine.json or startup.json there too")
    parser.add_argument("--startup", action="store_true", help="time the command line's first answers instead")
    parser.add_argument("--cold", action="store_true", help="with --startup: also with kernels not compiled yet")
    options, options.changes = parser.parse_known_args()
    if options.steps <= WARM + 1:
        parser.error(f"--steps must be more than {WARM + 1}, got {options.steps}")
    return options


class Bare:
    """The loop that one would write without an engine."""

    def __init__(self, recipe: Recipe, data: ImageData, steps: int):
        torch.manual_seed(recipe.seed)
        self.card, self.smoothing = runs.describe(data, recipe), recipe.label_smoothing
        self.model = self.card.build().train()
        self.optimizer = build_optimizer(self.model, recipe.optimizer, recipe.batch_size)
        self.schedule = build_schedule(self.optimizer, recipe, steps)

    def step(self, batch: Batch) -> None:
        logits = self.model(self.card.normalize(batch.images))
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


@dataclass
class Turns:
    """Batches for one trainer; before it gets one, the bare loop does its step with it. Times are in milliseconds."""

    bare: Bare
    fetched: list[float] = field(default_factory=list)
    bared: list[float] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)  # from getting a batch to asking for the next
    equal: bool = False  # weights, to the bit, in the end


class Taking(DataLoader[Batch]):
    """A loader as trainers see one."""

    def __init__(self, loader: DataLoader[Batch], turns: Turns):
        super().__init__(loader.dataset, batch_sampler=loader.batch_sampler)
        self.loader, self.turns = loader, turns

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        turns, batches = self.turns, iter(self.loader)
        for _ in range(len(self)):
            asked = time.perf_counter()
            batch = next(batches)
            turns.fetched.append(1e3 * (time.perf_counter() - asked))
            turns.bared.append(milliseconds(CPU, turns.bare.step, batch))
            given = time.perf_counter()
            yield batch
            turns.trained.append(1e3 * (time.perf_counter() - given))


def bare_again(recipe: Recipe, data: ImageData, turns: Turns) -> nn.Module:
    plan = Plan(len(data.train), recipe.batch_size, 1, 1)
    bare = Bare(recipe, data, plan.steps)
    images = data.renew(0) if data.renew else data.train
    loader = train_loader(images, plan, Draw(recipe.seed, 0), Share(), start=0, workers=0, magnitude=0)
    for batch in Taking(loader, turns):
        bare.step(batch)
    return bare.model


def engine(recipe: Recipe, data: ImageData, turns: Turns) -> nn.Module:
    """``train`` as it is, but for the batches."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(
        runs, "train_loader", lambda *given, **options: Taking(train_loader(*given, **options), turns)
    ):  # fmt: skip
        return runs.train(recipe, folder, data=data, title=None).model


def with_loggers(*loggers: str) -> Trainer:
    def trainer(recipe: Recipe, data: ImageData, turns: Turns) -> nn.Module:
        return engine(replace(recipe, machine=replace(recipe.machine, loggers=loggers)), data, turns)

    return trainer


TRAINERS: dict[str, Trainer] = {
    "bare again": bare_again,
    "engine, no logger": with_loggers(),
    "engine, tensorboard": with_loggers("tensorboard"),
}


def compare(trainer: Trainer, recipe: Recipe, steps: int) -> Turns:
    """One epoch of ``steps`` by a trainer and by the bare loop."""
    data = digit_pairs(steps * recipe.batch_size, recipe.batch_size, seed=recipe.seed, edge=recipe.data.size)
    turns = Turns(Bare(recipe, data, steps))
    mine, other = turns.bare.model.state_dict(), trainer(recipe, data, turns).state_dict()
    turns.equal = all(torch.equal(mine[name], value) for name, value in other.items())
    return turns


def measure(recipe: Recipe, steps: int, rounds: int) -> list[Row]:
    """Medians over all steps of all rounds, trainers taking turns."""
    found: dict[str, list[Turns]] = {name: [] for name in TRAINERS}
    for _ in range(rounds):
        for name, trainer in TRAINERS.items():
            found[name].append(compare(trainer, recipe, steps))
    return [overhead(name, turns) for name, turns in found.items()]


def overhead(name: str, rounds: list[Turns]) -> Row:
    """Of steps without their batches, of whole steps, and what is more of it: the median of steps side by side."""
    pairs = [pair for turns in rounds for pair in zip(turns.bared[WARM:], turns.trained[WARM:], strict=False)]
    fetch = statistics.median(value for turns in rounds for value in turns.fetched[WARM:])
    bare, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    more = statistics.median(trained - bared for bared, trained in pairs)
    row = {"name": name, "equal": all(turns.equal for turns in rounds), "steps": len(pairs), "fetch": fetch}
    row |= {"bare": bare, "trainer": other, "more": more, "percent": 100 * more / (bare + fetch), "unit": "ms"}
    print(
        f"{name:<20} bare {bare:7.2f} ms, it {other:7.2f} ms, batch {fetch:5.2f} ms: {more:+6.2f} ms a step, "
        f"{row['percent']:+.1f}% ({len(pairs)} steps, weights {'equal' if row['equal'] else 'DIFFER'})",
        flush=True,
    )
    return row


def startup(rounds: int, cold: bool) -> list[Row]:
    """Median seconds from the process's start, commands taking turns."""
    commands: dict[str, Callable[[], dict[str, float]]] = {
        "aaconv --help": lambda: answers("--help"),
        "aaconv train --help": lambda: answers("train", "--help"),
        "aaconv train digits --epochs 1": first_step,
    }
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            for what, seconds in command().items():
                found.setdefault(f"{name}: {what}", []).append(seconds)
    if cold:
        for what, seconds in first_step(cold=True).items():
            found[f"aaconv train digits --epochs 1, kernels not compiled: {what}"] = [seconds]
    rows = [{"name": name, "unit": "s", "value": statistics.median(all_), "all": all_} for name, all_ in found.items()]
    for row in rows:
        print(f"{row['name']:<75} {row['value']:6.2f} s  {min(row['all']):.2f} to {max(row['all']):.2f}", flush=True)
    return rows


def answers(*arguments: str) -> dict[str, float]:
    """Seconds until the command line has answered."""
    started = time.time()
    subprocess.run([sys.executable, "-m", "aaconv", *arguments], check=True, stdout=subprocess.DEVNULL)
    return {"answered": time.time() - started}


def first_step(*changes: str, cold: bool = False) -> dict[str, float]:
    """Seconds until training begins its first step, and until it begins its second."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **({"NUMBA_CACHE_DIR": f"{folder}/kernels"} if cold else {})}
        arguments = ["train", "digits", "--epochs", "1", "--out", f"{folder}/run", *changes]
        started = time.time()
        command = [sys.executable, "-c", UNTIL_STEP, *arguments]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True).stdout
    return {
        f"{place} step begins": float(line) - started for place, line in zip(("1st", "2nd"), said.split(), strict=True)
    }


if __name__ == "__main__":
    sys.exit(main())
