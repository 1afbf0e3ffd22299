"""The paper in miniature, from a command to a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from aaconv._checks import expect_int, expect_one_of
from aaconv.reproduction.page import write_page
from aaconv.reproduction.plan import ARMS, TASKS
from aaconv.reproduction.runs import Job, estimate_seconds, finished, run_all, write_outcomes

RESULTS = "results.csv"


def reproduce(
    folder: str | Path,
    *,
    seeds: int = 5,
    tasks: Sequence[str] | None = None,
    workers: int | None = None,
    epochs: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train every network with every seed on every task, and write ``index.md`` with figures and verdicts.

    Runs that ``folder`` holds are not trained again; one that was cut goes on.

    Args:
        folder: Where runs, results.csv and the page go.
        seeds: Runs of each network on each task, at least 2.
        tasks: Names in ``plan.TASKS``; None takes all.
        workers: Runs at a time; None takes one a core, one on a GPU.
        epochs: Another length of all runs.
        say: Gets the estimate of time.

    Raises:
        ValueError: Fewer than 2 seeds, no such task, or ``folder`` holds runs of another length.
    """
    expect_int("seeds", seeds, minimum=2)
    folder, tasks = Path(folder), list(TASKS if tasks is None else tasks)
    for task in tasks:
        expect_one_of("tasks", task, TASKS)
    if workers is None:
        workers = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    expect_int("workers", workers)
    overrides = () if epochs is None else (f"--epochs={expect_int('epochs', epochs)}",)
    # Seed by seed, so that what is there after a stop can be compared in pairs.
    jobs = [Job(task, arm, seed) for seed in range(seeds) for task in tasks for arm in ARMS]
    left = [job for job in jobs if finished(folder, job, overrides) is None]
    if left:
        minutes = estimate_seconds(left, overrides, workers) / 60
        say(
            f"{len(left)} of {len(jobs)} runs to train, {workers} at a time: about {minutes:.0f} minutes here; it can be "
            "stopped at any time, the same command goes on"
        )
    outcomes = run_all(folder, jobs, overrides, workers)
    write_outcomes(folder / RESULTS, outcomes)
    return write_page(folder, outcomes, workers)
