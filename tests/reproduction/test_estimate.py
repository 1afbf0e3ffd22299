"""The estimate of time."""

import pytest
import torch

from aaconv.reproduction import estimate as module
from aaconv.reproduction.estimate import BESIDE, duration, estimate_seconds
from aaconv.reproduction.runs import Job, recipe_of


def test_steps_of_all_runs_and_what_is_beside_them(monkeypatch):
    threads, timed = torch.get_num_threads(), []

    def step_seconds(recipe):
        timed.append((recipe.model.name, torch.get_num_threads()))
        return {"resnet10xs": 0.01, "ge_resnet10xs": 0.03}[recipe.model.name]

    monkeypatch.setattr(module, "_step_seconds", step_seconds)
    jobs = [Job("clutter", arm, seed) for arm in ("plain", "ge") for seed in range(3)]
    # Three runs of each, 2 epochs of 12,800 // 128 steps.
    expected = 3 * (0.01 + 0.03) * 2 * 100 * (1 + BESIDE)
    assert BESIDE == 0.45
    overrides = ["--epochs=2", "--batch_size=128"]
    assert estimate_seconds(jobs, overrides, 1) == pytest.approx(expected)
    assert timed == [("resnet10xs", threads), ("ge_resnet10xs", threads)]
    assert estimate_seconds(jobs, overrides, 2) == pytest.approx(expected / 2)
    assert timed[-1] == ("ge_resnet10xs", max(1, threads // 2))
    assert estimate_seconds(jobs, overrides, 60) == pytest.approx(expected / 6)  # no more than there are runs
    assert torch.get_num_threads() == threads


def test_a_step_is_timed():
    recipe = recipe_of(Job("clutter", "plain", 0), ["--data.size=9", "--batch_size=8"])
    assert 0 < module._step_seconds(recipe, steps=2) < 60


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "about 1 minute"),
        (89, "about 1 minute"),
        (91, "about 2 minutes"),
        (5939, "about 99 minutes"),
        (6000, "about 1.7 hours"),
        (36_000, "about 10.0 hours"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
