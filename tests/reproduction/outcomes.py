"""Outcomes made up for tests."""

import json

from aaconv.reproduction.page import Request
from aaconv.reproduction.plan import ARMS, TASKS
from aaconv.reproduction.runs import RESULT, Job, Outcome

WOBBLE = (0.0, 0.01, -0.01)  # of every network's accuracy, by seed: its own differences are exact


def made_up(means=None, seeds=3, tasks=tuple(TASKS)):
    """Outcomes of all runs: each network's mean, 0.5 where none is given, and a wobble that all share."""
    means = means or {}
    return [
        outcome_of(Job(task, arm, seed), means.get(arm, 0.5) + WOBBLE[seed])
        for seed in range(seeds)
        for task in tasks
        for arm in ARMS
    ]


def outcome_of(job, accuracy):
    parameters = 40_000 + 100 * list(ARMS).index(job.arm) + list(TASKS).index(job.task)
    return Outcome(job.task, job.arm, job.seed, round(accuracy, 6), 0.5, parameters, 1000, 36.0)


def jobs_of(outcomes):
    return [Job(outcome.task, outcome.arm, outcome.seed) for outcome in outcomes]


def request_for(outcomes, **changes):
    values = {"overrides": (), "workers": 2, "command": "aaconv reproduce --seeds 3 --workers 2"}
    return Request(**{"jobs": jobs_of(outcomes), **values, **changes})


def write_record(folder, outcome, overrides=(), **changes):
    """As a finished run leaves it."""
    path = folder / outcome.task / outcome.arm / f"seed{outcome.seed}" / RESULT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"overrides": list(overrides), **vars(outcome), **changes}))
    return path
