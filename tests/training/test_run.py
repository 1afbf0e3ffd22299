"""Runs: they learn, they go on after an interruption to the bit, they refuse what cannot work."""

import csv
import json

import pytest
import torch

from aaconv.data.digit_pairs import digit_pairs
from aaconv.data.splits import ImageData, Split
from aaconv.training import run as module
from aaconv.training.callbacks import History
from aaconv.training.checkpoint import load_checkpoint
from aaconv.training.run import METRICS, RESUME, SETTINGS, WEIGHTS, Settings, train


def tiny(edge=16, count=48):
    """Left or right half bright: learnt in a few steps."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 1, edge, edge), generator=random, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        image[0, :, (edge // 2) * int(label) : (edge // 2) * (int(label) + 1)] += 150
    split = Split(images, labels)
    return ImageData(split, split, ("left", "right"))


def settings_of(**changes):
    return Settings(**{"model": "aa_resnet10s", "data": "tiny", "edge": 16, "batch_size": 16, "epochs": 3, **changes})


def test_learns_and_leaves_its_files(tmp_path, capsys):
    run = train(tiny(), settings_of(epochs=8), tmp_path / "run", "tiny")
    assert run.history[-1]["val_accuracy"] == 1
    assert [row["epoch"] for row in run.history] == list(range(1, 9))
    assert run.history[-1]["step"] == 24
    assert run.seconds > 0
    names = {path.name for path in run.folder.iterdir()}
    assert names == {RESUME, WEIGHTS, SETTINGS, METRICS}
    with (run.folder / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val_accuracy"]) == 1
    assert set(rows[0]) == {*("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")}
    model, card = load_checkpoint(run.weights)
    assert card.classes == ("left", "right")
    assert torch.equal(model(torch.ones(1, 1, 16, 16)), run.model(torch.ones(1, 1, 16, 16)))
    assert "tiny 8/8: train_accuracy" in capsys.readouterr().err


@pytest.mark.parametrize("data", [tiny(), digit_pairs(48, 32)], ids=["fixed images", "composed anew"])
def test_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, monkeypatch, data):
    settings = settings_of(edge=data.edge)
    whole = train(data, settings, tmp_path / "whole")

    def interrupt(self, trainer, task):
        original(self, trainer, task)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    original = History.on_train_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_end", interrupt)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(data, settings, tmp_path / "cut")
    assert (tmp_path / "cut" / RESUME).exists()
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    resumed = train(data, settings, tmp_path / "cut")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for before, after in zip(whole.history, resumed.history, strict=True):
        assert {**before, "seconds": 0} == {**after, "seconds": 0}


def test_finished_run_is_not_trained_again(tmp_path):
    first = train(tiny(), settings_of(epochs=1), tmp_path)
    stamp = (tmp_path / RESUME).stat().st_mtime_ns
    again = train(tiny(), settings_of(epochs=1), tmp_path)
    assert (tmp_path / RESUME).stat().st_mtime_ns == stamp
    assert again.history == first.history
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_other_settings_are_refused(tmp_path):
    train(tiny(), settings_of(epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(epochs 1 -> 2, lr 0.003 -> 0.1\); use an"):
        train(tiny(), settings_of(epochs=2, lr=0.1), tmp_path)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(ValueError, match=r"settings.json is damaged"):
        train(tiny(), settings_of(epochs=1), tmp_path)


def test_damaged_progress_is_named(tmp_path):
    (tmp_path / SETTINGS).write_text(json.dumps(module.asdict(settings_of())))
    (tmp_path / RESUME).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read .*; remove it to start anew"):
        train(tiny(), settings_of(), tmp_path)


def test_norms_biases_and_tables_do_not_decay(tmp_path):
    run = train(tiny(), settings_of(epochs=1, weight_decay=0.3), tmp_path)
    task = module.ClassificationTask(run.model, run.card, lr=0.1, weight_decay=0.3, total_steps=10)
    decayed, others = task.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0)
    names = {id(p): name for name, p in run.model.named_parameters()}
    assert {names[id(p)].split(".")[-1] for p in decayed["params"]} == {"weight"}
    assert sum("position" in names[id(p)] for p in others["params"]) == 4
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_loss_that_is_not_finite_stops(tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step \d+; use a smaller lr"):
        train(tiny(), settings_of(lr=1e30), tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lr": 0.0}, "lr must be above 0 and finite, got lr=0.0"),
        ({"lr": float("nan")}, "lr must be above 0 and finite, got lr=nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got weight_decay=-1.0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        settings_of(**changes)


def test_batch_larger_than_the_set(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at most the 48 training images, got 64"):
        train(tiny(), settings_of(batch_size=64), tmp_path / "run")
    assert not (tmp_path / "run").exists()
