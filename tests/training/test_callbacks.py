"""What a run shows in a terminal, and when it saves and stops in the middle of an epoch."""

import re
import signal
import sys
import time
from itertools import count
from types import SimpleNamespace

import pytest

pytest.importorskip("pytorch_lightning")

from aaconv.training import callbacks, keeping
from aaconv.training.keeping import Keeper
from aaconv.training.run import train
from tests.training.test_run import recipe_of, tiny


def test_terminals_get_a_bar_over_the_whole_run(tmp_path, monkeypatch, capsys):
    clock = SimpleNamespace(monotonic=count().__next__, perf_counter=time.perf_counter)  # every batch is shown
    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run = train(recipe_of("--epochs=2"), tmp_path, data=tiny(), title="tiny")
    shown = capsys.readouterr().err
    assert "tiny 2/2" in shown
    assert "96.0/96.0" in shown  # images: two epochs of three steps of 16
    assert "evaluating" in shown
    held_out = f"{run.history[0]['val_accuracy']:.1%}"
    assert re.search(rf"loss \d+\.\d{{3}}, accuracy \d+\.\d%, accuracy held out {held_out}", shown)
    assert "train_loss" not in shown  # the lines of runs without a terminal


def keeper_of(tmp_path, save_steps=0, save_minutes=0.0):
    return Keeper(tmp_path, None, save_steps, save_minutes)


def test_interrupted_twice_stops_at_once(tmp_path):
    keeper = keeper_of(tmp_path)
    keeper._note(signal.SIGINT, None)
    keeper._note(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        keeper._note(signal.SIGINT, None)


def test_saves_after_steps_or_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: 100.0))
    assert [step for step in range(1, 10) if keeper_of(tmp_path, save_steps=3)._due(step)] == [3, 6, 9]
    assert not keeper_of(tmp_path)._due(3)
    for minutes, due in ((1.0, True), (2.0, False)):
        assert keeper_of(tmp_path, save_minutes=minutes)._due(1) is due
