"""From the arguments to the page; what trains is replaced."""

import csv

import pytest
import torch

from aaconv._errors import Failed, Stopped
from aaconv.reproduction import reproduce as module
from aaconv.reproduction.plan import ARMS
from aaconv.reproduction.reproduce import RESULTS, reproduce
from tests.reproduction.outcomes import outcome_of, write_record


@pytest.fixture
def asked(monkeypatch):
    """Replaces training and timing; what was asked for."""
    asked = {"count": None, "error": None}

    def run_all(folder, jobs, overrides, workers):
        asked.update(jobs=jobs, overrides=overrides, workers=workers)
        for job in jobs[: asked["count"]]:
            write_record(folder, outcome_of(job, 0.5 + 0.01 * job.seed), overrides)
        if asked["error"]:
            raise asked["error"]

    def estimate_seconds(jobs, overrides, workers):
        asked["estimated"] = (len(jobs), list(overrides), workers)
        return 600.0

    monkeypatch.setattr(module, "run_all", run_all)
    monkeypatch.setattr(module, "estimate_seconds", estimate_seconds)
    return asked


def rows_of(folder):
    with (folder / RESULTS).open() as file:
        return list(csv.DictReader(file))


def test_everything_is_run_told_and_written(tmp_path, asked):
    lines = []
    page = reproduce(tmp_path / "out", seeds=2, workers=3, say=lines.append)
    assert page == tmp_path / "out" / "index.md"
    assert lines == [
        "60 of 60 runs to train, 3 at a time: about 10 minutes here; it can be stopped at any time: the page then "
        "tells of what is finished, and the same command goes on"
    ]
    assert [(job.seed, job.task) for job in asked["jobs"][::15]] == [
        (0, "digits"),
        (0, "clutter"),
        (1, "digits"),
        (1, "clutter"),
    ]
    assert {job.arm for job in asked["jobs"]} == set(ARMS)
    assert asked["overrides"] == []
    assert len(rows_of(tmp_path / "out")) == 60
    text = page.read_text()
    assert "`aaconv reproduce --seeds 2 --workers 3`: 60 runs, 3 at a time" in text
    assert "runs are finished" not in text


def test_only_what_is_left_is_estimated(tmp_path, asked):
    asked["count"], asked["error"] = 10, Stopped("stopped by SIGTERM")
    with pytest.raises(Stopped):
        reproduce(tmp_path, seeds=2, tasks=["clutter"], workers=1, epochs=2, say=lambda line: None)
    asked["count"], asked["error"] = None, None
    lines = []
    page = reproduce(tmp_path, seeds=2, tasks=["clutter"], workers=1, epochs=2, say=lines.append)
    assert asked["estimated"] == (20, ["--epochs=2"], 1)
    assert lines[0].startswith("20 of 30 runs to train, 1 at a time")
    assert "`aaconv reproduce --seeds 2 --tasks clutter --workers 1 --epochs=2`" in page.read_text()
    lines.clear()
    reproduce(tmp_path, seeds=2, tasks=["clutter"], workers=1, epochs=2, say=lines.append)
    assert lines == []  # nothing to train, nothing to wait for


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), Stopped("s"), Failed("f"), FloatingPointError("p")],
    ids=lambda error: type(error).__name__,
)
def test_after_a_stop_the_page_tells_of_what_is_finished(tmp_path, asked, error):
    asked["count"], asked["error"] = 17, error
    with pytest.raises(type(error)):
        reproduce(tmp_path, seeds=2, tasks=["digits"], say=lambda line: None)
    assert len(rows_of(tmp_path)) == 17
    assert "**17 of 30 runs are finished: what follows may change.**" in (tmp_path / "index.md").read_text()


def test_stopped_before_anything_is_finished(tmp_path, asked):
    asked["count"], asked["error"] = 0, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        reproduce(tmp_path, seeds=2, say=lambda line: None)
    assert not list(tmp_path.iterdir())


def test_usual_number_of_runs_at_a_time(tmp_path, asked, monkeypatch):
    quiet = {"seeds": 2, "tasks": ["digits"], "say": lambda line: None}
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reproduce(tmp_path, **quiet)
    assert asked["workers"] == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reproduce(tmp_path, **quiet)
    assert asked["workers"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 1}, "seeds must be at least 2, got seeds=1"),
        ({"tasks": ["digit"]}, "tasks must be one of .*, got 'digit'; did you mean 'digits'"),
        ({"tasks": []}, "tasks must be one of"),
        ({"workers": 0}, "workers must be at least 1, got workers=0"),
        ({"epochs": 0}, "epochs must be at least 1, got epochs=0"),
    ],
)
def test_bad_arguments(tmp_path, asked, arguments, message):
    with pytest.raises(ValueError, match=message):
        reproduce(tmp_path, **arguments)
    assert "jobs" not in asked


def test_runs_of_another_length_are_refused(tmp_path, asked):
    quiet = {"seeds": 2, "tasks": ["digits"], "say": lambda line: None}
    reproduce(tmp_path, epochs=1, **quiet)
    with pytest.raises(
        ValueError, match="holds a run with --epochs=1, asked for the usual settings; use another --out"
    ):
        reproduce(tmp_path, **quiet)
    reproduce(tmp_path / "usual", **quiet)
    reproduce(tmp_path / "usual", epochs=5, **quiet)  # is the usual length
