"""The benchmark of the engine: it trains as a bare loop does, to the bit, before it is timed."""

import json
import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("pytorch_lightning")
TINY = ("--model.name=aa_resnet10xs_r25", "--batch_size=8")


@pytest.fixture
def engine(load):
    """The program."""
    return load("engine")


def run(engine, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["engine.py", "--steps", "8", "--rounds", "1", *TINY, *arguments])
    return engine.main()


def test_engine_and_bare_loop_end_with_the_same_bits(engine, monkeypatch, tmp_path):
    assert run(engine, monkeypatch, "--out", str(tmp_path)) == 0
    report = json.loads((tmp_path / "engine.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["bare again", "engine, no logger", "engine, tensorboard"]
    assert all(row["equal"] and row["bare"] > 0 and row["trainer"] > 0 for row in report["rows"])
    assert (report["machine"]["torch"], report["batch"]) == (torch.__version__, 8)


def test_nothing_is_timed_when_the_engine_trains_otherwise(engine, monkeypatch, tmp_path, capsys):
    plain = engine.build_schedule
    monkeypatch.setattr(
        engine, "build_schedule", lambda optimizer, recipe, steps: plain(optimizer, replace(recipe, epochs=2), steps)
    )
    assert run(engine, monkeypatch, "--out", str(tmp_path)) == 1
    assert "not timed: engine, no logger, engine, tensorboard ended with" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.hard
def test_startup_is_read_from_a_fresh_process(engine):
    seconds = engine.first_step(*TINY)
    assert list(seconds) == ["1st step begins", "2nd step begins"]
    assert 0 < seconds["1st step begins"] < seconds["2nd step begins"]


def test_startup_is_written(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "first_step", lambda cold=False: {"1st step begins": 2.0 + cold})
    assert run(engine, monkeypatch, "--startup", "--cold", "--out", str(tmp_path)) == 0
    found = {row["name"]: row["value"] for row in json.loads((tmp_path / "startup.json").read_text())["rows"]}
    assert found.pop("aaconv --help: answered") > 0
    assert found.pop("aaconv train --help: answered") > 0
    assert list(found.values()) == [2.0, 3.0]


def test_a_round_must_outlast_the_warm_up(engine, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(engine, monkeypatch, "--steps", "6")
    assert "--steps must be more than 6, got 6" in capsys.readouterr().err
