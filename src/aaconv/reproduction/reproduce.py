"""The paper in miniature, from a command to a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from aaconv._checks import expect_int, expect_one_of
from aaconv._errors import Failed, Stopped
from aaconv.reproduction.estimate import duration, estimate_seconds
from aaconv.reproduction.page import Request, write_page
from aaconv.reproduction.plan import ARMS, SEEDS, TASKS
from aaconv.reproduction.runs import Job, Outcome, finished, run_all, write_outcomes

RESULTS = "results.csv"


def reproduce(
    folder: str | Path,
    *,
    seeds: int = SEEDS,
    tasks: Sequence[str] | None = None,
    workers: int | None = None,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Train every network with every seed on every task, and write ``index.md`` with figures and verdicts.

    Runs that ``folder`` holds are not trained again; one that was cut goes on. After a stop the page tells of what is
    finished. The processes that train import the calling script: call this under ``if __name__ == "__main__"``.

    Args:
        folder: Where runs, results.csv and the page go.
        seeds: Runs of each network on each task, at least 2.
        tasks: Names in ``plan.TASKS``; None takes all.
        workers: Runs at a time; None takes one a core, one on a GPU.
        epochs: Another length of all runs.
        overrides: What else changes in all runs, as ``load_recipe`` takes it: ["--data.size=32"].
        say: Gets the estimate of time.

    Raises:
        ValueError: Fewer than 2 seeds, no such task, a damaged record, or ``folder`` holds runs with other settings.
        FloatingPointError: A run's loss stopped being finite.
        Stopped: A signal came; runs under way are saved.
        Failed: The machine could not do it, a process died.
    """
    expect_int("seeds", seeds, minimum=2)
    folder, tasks = Path(folder), list(TASKS if tasks is None else dict.fromkeys(tasks))
    for task in tasks or [""]:
        expect_one_of("tasks", task, TASKS)
    workers = expect_int("workers", _default_workers() if workers is None else workers)
    length = [] if epochs is None else [f"--epochs={expect_int('epochs', epochs)}"]
    changed = [*overrides, *length]
    # Seed by seed, so that what is there after a stop can be compared in pairs.
    jobs = [Job(task, arm, seed) for seed in range(seeds) for task in tasks for arm in ARMS]
    left = [job for job in jobs if finished(folder, job, changed) is None]
    if left:
        say(_announcement(left, len(jobs), changed, workers))
    request = Request(jobs, changed, workers, _command(seeds, tasks, workers, *length))
    try:
        run_all(folder, jobs, changed, workers)
    except (KeyboardInterrupt, Stopped, Failed, FloatingPointError):
        if outcomes := _finished(folder, request):
            _write(folder, outcomes, request)
        raise
    return _write(folder, _finished(folder, request), request)


def _announcement(left: Sequence[Job], planned: int, overrides: Sequence[str], workers: int) -> str:
    expected = duration(estimate_seconds(left, overrides, workers))
    return (
        f"{len(left)} of {planned} runs to train, {workers} at a time: {expected} here; it can be stopped at any time: "
        "the page then tells of what is finished, and the same command goes on"
    )


def _finished(folder: Path, request: Request) -> list[Outcome]:
    return [outcome for job in request.jobs if (outcome := finished(folder, job, request.overrides))]


def _write(folder: Path, outcomes: Sequence[Outcome], request: Request) -> Path:
    write_outcomes(folder / RESULTS, outcomes)
    return write_page(folder, outcomes, request)


def _command(seeds: int, tasks: Sequence[str], workers: int, *others: str) -> str:
    chosen = [] if tasks == list(TASKS) else ["--tasks", *tasks]
    return " ".join(["aaconv reproduce", f"--seeds {seeds}", *chosen, f"--workers {workers}", *others])


def _default_workers() -> int:
    if torch.cuda.is_available():
        return 1
    allowed = getattr(os, "sched_getaffinity", None)  # fewer than the machine has, in containers and queues
    return len(allowed(0)) if allowed else os.cpu_count() or 1
