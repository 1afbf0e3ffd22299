"""Runs: what they leave, how they go on after every kind of end, and what is refused."""

import csv
import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from aaconv.reproduction import runs as module
from aaconv.reproduction.runs import RESULT, Job, Outcome, finished, perform, recipe_of, run_all, write_outcomes
from tests.reproduction import trials
from tests.reproduction.outcomes import jobs_of, made_up, outcome_of, write_record

JOB = Job("clutter", "ge", 0)
TINY = [*trials.TINY, "--epochs=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run, and its outcome."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, perform(folder, JOB, TINY)


def test_a_run_leaves_its_outcome(trained):
    folder, outcome = trained
    run = folder / "clutter" / "ge" / "seed0"
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert outcome.accuracy == pytest.approx(float(row["val_accuracy"]), rel=1e-5)
    assert outcome.loss == pytest.approx(float(row["val_loss"]), rel=1e-5)
    assert (outcome.parameters, outcome.steps) == (42_938, 8)
    assert outcome.seconds > 0
    assert json.loads((run / RESULT).read_text()) == {"overrides": TINY, **dataclasses.asdict(outcome)}
    assert finished(folder, JOB, TINY) == outcome


def test_finished_runs_are_not_trained_again(trained, monkeypatch):
    folder, outcome = trained
    monkeypatch.setattr(module, "worker_pool", None)
    assert run_all(folder, [JOB], TINY, 2) == [outcome]


def test_a_run_without_its_outcome_is_finished_from_the_checkpoint(trained):
    folder, outcome = trained
    (folder / "clutter" / "ge" / "seed0" / RESULT).unlink()
    assert finished(folder, JOB, TINY) is None
    assert perform(folder, JOB, TINY) == outcome


def test_other_settings_are_refused(trained):
    folder, outcome = trained
    with pytest.raises(
        ValueError, match=r"seed0 holds a run with .*--epochs=1, asked for the usual settings; use another"
    ):
        finished(folder, JOB, [])
    same = ["--epochs=1", *trials.TINY]  # in another order
    assert finished(folder, JOB, same) == outcome


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ('{"overrides": [], "task": "clu', "Unterminated string"),
        ("[]", "it must hold names and values"),
        ("{}", "overrides"),
    ],
)
def test_damaged_records_are_named(tmp_path, text, reason):
    path = write_record(tmp_path, outcome_of(JOB, 0.5))
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"seed0/result.json is damaged \(.*{reason}.*\); remove it, and the run"):
        run_all(tmp_path, [JOB], [], 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 1}, "it is of clutter, ge, seed 1"),
        ({"accuracy": 1.5}, "accuracy must be at most 1, got 1.5"),
        ({"accuracy": float("nan")}, "accuracy must be a number of at least 0, got nan"),
        ({"loss": "0.5"}, "loss must be a number of at least 0, got '0.5'"),
        ({"colour": 1}, "colour"),
    ],
)
def test_records_that_cannot_be_are_named(tmp_path, changes, reason):
    write_record(tmp_path, outcome_of(JOB, 0.5), **changes)
    with pytest.raises(ValueError, match=f"is damaged .*{reason}"):
        finished(tmp_path, JOB, [])


def test_a_folder_that_is_still_held_is_waited_for(trained, monkeypatch):
    folder, outcome = trained
    recipe, train, free = recipe_of(JOB, TINY), module.train, threading.Event()
    lock = FileLock(folder / "clutter" / "ge" / "seed0" / ".lock", thread_local=False)

    def release():
        lock.release()
        free.set()

    def train_when_free(*arguments, **options):
        assert free.is_set()
        return train(*arguments, **options)

    monkeypatch.setattr(module, "recipe_of", lambda job, overrides: recipe)
    monkeypatch.setattr(module, "train", train_when_free)
    lock.acquire()
    threading.Timer(0.5, release).start()
    assert perform(folder, JOB, TINY) == outcome
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    with lock, pytest.raises(ValueError, match=r"seed0 is in use by .*; wait for it, stop it, or use another --out"):
        perform(folder, JOB, TINY)


def test_table_of_outcomes(tmp_path):
    outcomes = made_up()[:4]
    write_outcomes(tmp_path / "results.csv", outcomes)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [entry.name for entry in dataclasses.fields(Outcome)] == list(rows[0])
    assert [Job(row["task"], row["arm"], int(row["seed"])) for row in rows] == jobs_of(outcomes)
    assert [float(row["accuracy"]) for row in rows] == [outcome.accuracy for outcome in outcomes]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """An uninterrupted run, and the command on one that is ended in three ways, then finished, then given again."""
    folder = tmp_path_factory.mktemp("trials")
    kinds = {
        "whole": {"plainly": True},
        "ctrl-c": {"kill": "SIGINT", "group": True},
        "terminated": {"kill": "SIGTERM"},
        "killed": {"kill": "SIGKILL"},
        "rest": {},
        "again": {},
    }
    steps = [
        {"folder": str(folder / ("whole" if name == "whole" else "cut")), "said": str(folder / f"{name}.txt"), **kind}
        for name, kind in kinds.items()
    ]
    path = folder / "steps.json"
    path.write_text(json.dumps(steps))
    done = subprocess.run(
        [sys.executable, trials.__file__, str(path)], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, dict(zip(kinds, json.loads(path.with_suffix(".done").read_text()), strict=True))


def said(step):
    return Path(step["said"]).read_text().splitlines()


def test_ctrl_c_and_signals_save_and_say_one_line(ends):
    _, steps = ends
    assert [steps[name]["code"] for name in ("ctrl-c", "terminated")] == [130, 130]
    announcement, line = said(steps["ctrl-c"])
    assert announcement.startswith("2 of 2 runs to train, 1 at a time: about 1 minute here; it can be stopped")
    assert line == "aaconv: interrupted; the same command goes on from the last checkpoint"
    assert said(steps["terminated"])[1:] == [
        "aaconv: stopped by SIGTERM; runs under way are saved; the same command goes on"
    ]
    # Saved where they were, behind the first epoch's 8 steps and before the last of 4, and the next run not begun.
    assert 8 < steps["ctrl-c"]["step"] < steps["terminated"]["step"] < 32
    assert not steps["terminated"]["second"]


def test_no_process_is_left_when_the_main_one_is_killed(ends):
    _, steps = ends
    assert steps["killed"]["code"] == -9
    assert not steps["killed"]["second"]
    assert [step["left"] for step in steps.values()] == [False] * 6
    assert not [line for line in said(steps["killed"]) if "Traceback" in line]


def test_outcomes_are_those_of_an_uninterrupted_run(ends):
    folder, steps = ends
    assert steps["rest"]["code"] == 0
    overrides = [*trials.TINY, f"--epochs={trials.EPOCHS}"]
    whole, cut = (finished(folder / name, JOB, overrides) for name in ("whole", "cut"))
    assert dataclasses.replace(cut, seconds=0) == dataclasses.replace(whole, seconds=0)
    assert cut.steps == 8 * trials.EPOCHS
    assert (folder / "cut" / "index.md").read_text().startswith("# The paper's comparisons in miniature\n\nOn *")
    with (folder / "cut" / "results.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1"]


def test_what_is_finished_is_not_done_again(ends):
    folder, steps = ends
    assert steps["again"]["code"] == 0
    assert said(steps["again"]) == [f"page: {folder / 'cut' / 'index.md'}"]
    starts = [
        len(json.loads((folder / "cut" / "clutter" / "ge" / f"seed{seed}" / "environment.json").read_text())["starts"])
        for seed in range(2)
    ]
    assert starts == [4, 1]  # three were ended
