"""Trains every arm with every seed on every task, several at a time, each in a folder of its own that can go on."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from aaconv._files import write_text, write_whole
from aaconv.reproduction.plan import ARMS, TASKS
from aaconv.reproduction.workers import worker_pool
from aaconv.training.config import Recipe
from aaconv.training.fit import LOCK
from aaconv.training.recipes import load_recipe
from aaconv.training.records import ENVIRONMENT
from aaconv.training.run import train

RESULT = "result.json"
PATIENCE = 30.0  # seconds that a process whose main process was killed may take to save its run and end


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
        ValueError: A folder holds a run with other settings, is in use, or its record is damaged.
        FloatingPointError: A run's loss stopped being finite.
        Stopped: A signal came; what was under way is saved.
        Failed: The machine could not do it, a process died.
    """
    done = {job: outcome for job in jobs if (outcome := finished(folder, job, overrides))}
    left = [job for job in jobs if job not in done]
    if not left:
        return [done[job] for job in jobs]
    waiting: dict[Future[Outcome], Job] = {}
    with (
        worker_pool(min(workers, len(left))) as pool,
        tqdm(total=len(jobs), initial=len(done), desc="runs", unit=" runs", disable=None) as bar,
    ):
        while left or waiting:
            # No more than run at once: when it ends, a process would still take what the pool has handed out.
            while left and len(waiting) < workers:
                job = left.pop(0)
                waiting[pool.submit(perform, folder, job, overrides)] = job
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                done[waiting.pop(future)] = future.result()
                bar.update()
    return [done[job] for job in jobs]


def perform(folder: Path, job: Job, overrides: Sequence[str]) -> Outcome:
    """Train one run to its end."""
    where = _folder_of(folder, job)
    _await_release(where)
    run = train(recipe_of(job, overrides), where, title=None)
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
    """The outcome that ``folder`` holds of a job; None where the job is not finished.

    Raises:
        ValueError: The record is damaged, or of a run with other ``overrides``.
    """
    path = _folder_of(folder, job) / RESULT
    if not path.exists():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            raise ValueError("it must hold names and values")
        before = list(held.pop("overrides"))
        outcome = Outcome(**held)
        _check(outcome, job)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        advice = "remove it, and the run is finished again from its checkpoint"
        raise ValueError(f"{path} is damaged ({error}); {advice}") from error
    if not _alike(job.task, tuple(before), tuple(overrides)):
        made, asked = (" ".join(items) or "the usual settings" for items in (before, overrides))
        raise ValueError(f"{path.parent} holds a run with {made}, asked for {asked}; use another --out folder")
    return outcome


@cache
def _alike(task: str, before: tuple[str, ...], overrides: tuple[str, ...]) -> bool:
    """Whether both change a run in the same way; any network shows that."""
    job = Job(task, next(iter(ARMS)), 0)
    return before == overrides or recipe_of(job, before) == recipe_of(job, overrides)


def _check(outcome: Outcome, job: Job) -> None:
    """Raise ValueError where a record cannot be what the job left."""
    if Job(outcome.task, outcome.arm, outcome.seed) != job:
        raise ValueError(f"it is of {outcome.task}, {outcome.arm}, seed {outcome.seed}")
    for entry in fields(Outcome)[3:]:
        value = getattr(outcome, entry.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ValueError(f"{entry.name} must be a number of at least 0, got {value!r}")
    if outcome.accuracy > 1:
        raise ValueError(f"accuracy must be at most 1, got {outcome.accuracy}")


def environments(folder: Path, outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    """What the runs were made with and on, and how many with each, most frequent first."""
    jobs = [Job(outcome.task, outcome.arm, outcome.seed) for outcome in outcomes]
    return environments_in([_folder_of(folder, job) / ENVIRONMENT for job in jobs])


def environments_in(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """The same of records of runs."""
    found: Counter[str] = Counter()
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # a note on the page, no more
            found[_describe(json.loads(path.read_text(encoding="utf-8")))] += 1
    return found.most_common()


def _describe(held: dict[str, Any]) -> str:
    hardware = ", ".join(held["gpus"]) or f"{held['threads']} of {held['cpus']} cores of {held['processor']} a run"
    packages = [f"{name} {held['packages'][name]}" for name in ("torch", "timm", "numba") if name in held["packages"]]
    return f"{hardware}; aaconv {held['aaconv']}, {', '.join(packages)}, Python {held['python']}"


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """A row a run, as CSV."""
    write_rows(path, [entry.name for entry in fields(Outcome)], [asdict(outcome).values() for outcome in outcomes])


def write_rows(path: Path, names: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """CSV, whole or not at all."""

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in rows)

    write_whole(path, write)


def _await_release(where: Path) -> None:
    """Wait a little while another process holds the run; ``train`` tells the user if it goes on doing so."""
    where.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout), FileLock(where / LOCK).acquire(timeout=PATIENCE):
        pass


def _folder_of(folder: Path, job: Job) -> Path:
    return folder / job.task / job.arm / f"seed{job.seed}"
