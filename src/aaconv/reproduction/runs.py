"""Trains every arm with every seed on every task, several at a time, each in a folder of its own that can go on."""

from __future__ import annotations

import csv
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from tqdm import tqdm

from aaconv._files import write_text, write_whole
from aaconv.reproduction.plan import ARMS, TASKS
from aaconv.training.config import Recipe
from aaconv.training.recipes import load_recipe
from aaconv.training.run import describe, train
from aaconv.training.sources import synthetic_data
from aaconv.training.task import ClassificationTask

RESULT = "result.json"


@dataclass(frozen=True)
class Job:
    """One run."""

    task: str
    arm: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a run, measured on held-out images after the last epoch."""

    task: str
    arm: str
    seed: int
    accuracy: float
    loss: float
    parameters: int
    steps: int
    seconds: float


def recipe_of(job: Job, overrides: Sequence[str] = ()) -> Recipe:
    """The run as a recipe; ``overrides`` come after those of the task."""
    arm, task = ARMS[job.arm], TASKS[job.task]
    network = [f"--model.name={arm.model}", f"--model.options={json.dumps(arm.options)}", f"--seed={job.seed}"]
    changed = {item.partition("=")[0]: item for item in (*task.overrides, *network, *overrides)}
    return load_recipe(task.recipe, list(changed.values()))


def run_all(folder: Path, jobs: Sequence[Job], overrides: Sequence[str], workers: int) -> list[Outcome]:
    """Outcomes in the order of ``jobs``; those that ``folder`` holds are not run again, cut ones go on.

    Raises:
        ValueError: A folder holds a run with other settings.
        FloatingPointError: A run's loss stopped being finite.
    """
    done = {job: outcome for job in jobs if (outcome := finished(folder, job, overrides))}
    left = [job for job in jobs if job not in done]
    bar = tqdm(total=len(jobs), initial=len(done), desc="runs", unit=" runs", disable=None)
    # Fresh processes: a forked one could not use the threads that torch has started here.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (workers,))
    try:
        waiting = {pool.submit(perform, folder, job, overrides): job for job in left}
        for future in as_completed(waiting):
            done[waiting[future]] = future.result()
            bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    return [done[job] for job in jobs]


def perform(folder: Path, job: Job, overrides: Sequence[str]) -> Outcome:
    """Train one run to its end."""
    where = _folder_of(folder, job)
    recipe = recipe_of(job, overrides)
    run = train(recipe, where, title=None)
    last = run.history[-1]
    outcome = Outcome(
        **asdict(job),
        accuracy=last["val_accuracy"],
        loss=last["val_loss"],
        parameters=sum(value.numel() for value in run.model.parameters()),
        steps=int(last["step"]),
        seconds=run.seconds,
    )
    write_text(where / RESULT, json.dumps({"overrides": list(overrides), **asdict(outcome)}))
    return outcome


def finished(folder: Path, job: Job, overrides: Sequence[str]) -> Outcome | None:
    """The outcome that ``folder`` holds of a job, if it was trained with these overrides."""
    path = _folder_of(folder, job) / RESULT
    if not path.exists():
        return None
    held = json.loads(path.read_text(encoding="utf-8"))
    if held.pop("overrides") != list(overrides):
        raise ValueError(f"{path.parent} holds a run with other settings; use another --out folder")
    return Outcome(**held)


def estimate_seconds(jobs: Sequence[Job], overrides: Sequence[str], workers: int) -> float:
    """How long the jobs will take, from a few training steps of each arm timed here on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        arms = {(job.task, job.arm): job for job in jobs}
        seconds = {key: _step_seconds(recipe_of(job, overrides)) for key, job in arms.items()}
    finally:
        torch.set_num_threads(threads)
    total = 0.0
    for job in jobs:
        recipe = recipe_of(job, overrides)
        total += seconds[job.task, job.arm] * recipe.epochs * IMAGES / recipe.batch_size
    return total * (1 + EVALUATION) / workers


IMAGES = 12_800  # of an epoch of the embedded tasks
EVALUATION = 0.15  # of training time


def _step_seconds(recipe: Recipe, steps: int = 5) -> float:
    """The fastest of a few training steps."""
    data = synthetic_data(recipe.data, recipe.batch_size)
    card = describe(data, recipe)
    task = ClassificationTask(card.build(), card, recipe, steps)
    optimizer = task.configure_optimizers()["optimizer"]
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(task(data.train.images), data.train.labels)  # type: ignore[attr-defined]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    return min(times)


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """A row a run, as CSV."""

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([entry.name for entry in fields(Outcome)])
            for outcome in outcomes:
                writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in asdict(outcome).values()])

    write_whole(path, write)


def _folder_of(folder: Path, job: Job) -> Path:
    return folder / job.task / job.arm / f"seed{job.seed}"


def _begin(workers: int) -> None:
    """Of each worker: its share of the cores."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
