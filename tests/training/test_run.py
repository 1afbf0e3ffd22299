"""Runs: they learn, leave what they should, go on, and refuse what cannot work."""

import csv
import json
import os
import signal
from itertools import accumulate

import pytest
import torch
from filelock import FileLock

from aaconv._errors import Failed, Stopped
from aaconv._files import beside
from aaconv.data.digit_pairs import digit_pairs
from aaconv.data.splits import ImageData, Split
from aaconv.training.callbacks import CURVES, METRICS, History
from aaconv.training.checkpoint import ModelCard, load_checkpoint
from aaconv.training.fit import LOCK, WEIGHTS
from aaconv.training.keeping import BEST, RESUME, Keeper
from aaconv.training.recipes import load_recipe
from aaconv.training.records import CARD, CONFIG, ENVIRONMENT
from aaconv.training.run import dry_run, train
from aaconv.training.task import ClassificationTask
from tests.training.trials import without_batch_norm

KEPT = {RESUME, WEIGHTS, BEST, METRICS, CURVES, CONFIG, ENVIRONMENT, CARD, LOCK}


def tiny(edge=16, count=48):
    """Left or right half bright: learnt in a few steps."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 1, edge, edge), generator=random, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        image[0, :, (edge // 2) * int(label) : (edge // 2) * (int(label) + 1)] += 150
    split = Split(images, labels)
    return ImageData.in_memory(split, split, ("left", "right"))


def recipe_of(*overrides):
    usual = {"--model.name": "aa_resnet10xs_r25", "--data.name": "folder", "--data.size": "16", "--batch_size": "16"}
    usual |= {"--epochs": "3", "--machine.loggers": "[]", "--machine.accelerator": "cpu"}
    usual |= dict(item.split("=", 1) for item in overrides)
    return load_recipe("digits", [f"{name}={value}" for name, value in usual.items()])


def test_learns_and_leaves_its_files(tmp_path, capsys):
    recipe = recipe_of("--epochs=8", "--machine.loggers=[tensorboard]", "--model.options={position: sine}")
    run = train(recipe, tmp_path / "run", data=tiny(), title="tiny")
    assert run.history[-1]["val_accuracy"] == 1
    assert [row["epoch"] for row in run.history] == list(range(1, 9))
    assert run.history[-1]["step"] == 24
    assert run.seconds > 0
    assert {path.name for path in run.folder.iterdir()} == KEPT | {"tensorboard"}
    assert list((run.folder / "tensorboard").glob("events.*"))
    with (run.folder / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val_accuracy"]) == 1
    sums = {f"{part}_{name}" for part in ("train", "val") for name in ("loss", "accuracy", "top5")}
    assert set(rows[0]) == {"epoch", "step", "seconds"} | sums
    assert "tiny 8/8: train_loss" in capsys.readouterr().err
    for file in (WEIGHTS, BEST):
        model, card = load_checkpoint(run.folder / file)
        assert (card.classes, card.options) == (("left", "right"), {"position": "sine"})
    model, _ = load_checkpoint(run.weights)
    assert torch.equal(model(torch.ones(1, 1, 16, 16)), run.model(torch.ones(1, 1, 16, 16)))


def test_folder_says_what_was_run_and_measured(tmp_path):
    run = train(recipe_of(), tmp_path, data=tiny(), title=None)
    assert load_recipe(tmp_path / CONFIG) == recipe_of()
    record = json.loads((tmp_path / ENVIRONMENT).read_text())
    assert record["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert record["devices"] == 1
    assert len(record["starts"]) == 1
    page = (tmp_path / CARD).read_text()
    assert f"| `model.safetensors`, last epoch | {run.history[-1]['val_accuracy']:.2%} |" in page
    assert f"{sum(p.numel() for p in run.model.parameters()):,} parameters" in page
    assert "48 for training, 48 for evaluation, 2 classes" in page


def test_metrics_are_what_the_network_does(tmp_path):
    run = train(recipe_of("--epochs=2", "--batch_size=48"), tmp_path, data=tiny(), title=None)
    data = tiny()
    with torch.no_grad():
        logits = run.model(run.card.normalize(data.val.images))
    row = run.history[-1]
    assert row["val_accuracy"] == pytest.approx((logits.argmax(1) == data.val.labels).float().mean().item())
    loss = torch.nn.functional.cross_entropy(logits, data.val.labels).item()
    assert row["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_best_is_kept_beside_last(tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.9, 0.6])
    original = History.on_train_epoch_end

    def scripted(self, trainer, task):
        original(self, trainer, task)
        self.rows[-1]["val_accuracy"] = next(accuracies)
        kept.append({name: value.clone() for name, value in task.model.state_dict().items()})

    kept = []
    monkeypatch.setattr(History, "on_train_epoch_end", scripted)
    train(recipe_of(), tmp_path, data=tiny(), title=None)
    for file, epoch in ((BEST, 1), (WEIGHTS, 2)):
        model, _ = load_checkpoint(tmp_path / file)
        assert all(torch.equal(value, kept[epoch][name]) for name, value in model.state_dict().items()), file


def test_resumed_run_knows_its_best(tmp_path, monkeypatch):
    accuracies = iter([0.9, 0.5, 0.6])
    original = History.on_train_epoch_end

    def scripted(self, trainer, task):
        original(self, trainer, task)
        self.rows[-1]["val_accuracy"] = next(accuracies)
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(History, "on_train_epoch_end", scripted)
    with pytest.raises(Stopped):
        train(recipe_of(), tmp_path, data=tiny(), title=None)
    best = (tmp_path / BEST).read_bytes()
    train(recipe_of(), tmp_path, data=tiny(), title=None)
    assert next(accuracies, None) is None
    assert (tmp_path / BEST).read_bytes() == best


def test_moving_average_is_evaluated_and_kept(tmp_path, monkeypatch):
    data, seen = tiny(), []
    original = Keeper.on_train_batch_end

    def note(self, trainer, task, *args):
        seen.append(task.model.head.weight.detach().clone())
        original(self, trainer, task, *args)

    monkeypatch.setattr(Keeper, "on_train_batch_end", note)
    run = train(recipe_of("--ema_decay=0.5", "--epochs=4"), tmp_path, data=data, title=None)
    state = torch.load(tmp_path / RESUME, weights_only=True)
    name = "head.weight"
    averaged, current = (state[part][f"model.{name}"] for part in ("state_dict", "current_model_state"))
    assert torch.equal(run.model.state_dict()[name], averaged)
    assert not torch.equal(averaged, current)
    averages = list(accumulate(seen, lambda average, value: 0.5 * average + 0.5 * value))
    torch.testing.assert_close(averaged, averages[-1])
    scores = [row["val_accuracy"] for row in run.history]
    best, _ = load_checkpoint(tmp_path / BEST)
    torch.testing.assert_close(best.head.weight.detach(), averages[3 * scores.index(max(scores)) + 2])
    with torch.no_grad():
        logits = run.model(run.card.normalize(data.val.images))
    loss = torch.nn.functional.cross_entropy(logits, data.val.labels).item()
    assert run.history[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_accumulated_batches_make_the_step_of_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ModelCard, "build", without_batch_norm(ModelCard.build))
    options = ("--optimizer.name=sgd", "--optimizer.lr=0.1", "--epochs=2")
    whole, parts = (
        train(recipe_of(f"--accumulate={number}", *options), tmp_path / f"{number}", data=tiny(), title=None)
        for number in (1, 2)
    )
    assert whole.history[-1]["step"] == parts.history[-1]["step"] == 6
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_weights_begin_as_the_seed_draws_them_and_clipped_gradients_move_them_no_further(tmp_path):
    options = {"name": "sgd", "lr": 1, "momentum": 0, "weight_decay": 0, "clip_norm": 0.001}
    overrides = [f"--optimizer.{name}={value}" for name, value in options.items()]
    plain = ("--schedule.name=constant", "--schedule.warmup=0", "--epochs=1", "--seed=3")
    run = train(recipe_of(*overrides, *plain), tmp_path, data=tiny(), title=None)
    torch.manual_seed(3)
    first = run.card.build()
    pairs = zip(first.parameters(), run.model.parameters(), strict=True)
    moved = sum((after - before).detach().square().sum() for before, after in pairs).sqrt().item()
    assert 0 < moved <= 3 * 0.001 * 1.01  # three steps


def test_images_composed_anew_are_the_same_after_an_interruption(tmp_path, monkeypatch):
    data, recipe = digit_pairs(48, 32, edge=24), recipe_of("--data.name=digits", "--data.size=24")
    whole = train(recipe, tmp_path / "whole", data=data, title=None)
    original, handler = History.on_train_epoch_end, signal.getsignal(signal.SIGTERM)

    def interrupt(self, trainer, task):
        original(self, trainer, task)
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_end", interrupt)
        with pytest.raises(Stopped, match=r"stopped by SIGTERM; saved .*last\.ckpt at optimiser step 6"):
            train(recipe, tmp_path / "cut", data=data, title=None)
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    resumed = train(recipe, tmp_path / "cut", data=data, title=None)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert signal.getsignal(signal.SIGTERM) == handler
    assert len(json.loads((tmp_path / "cut" / ENVIRONMENT).read_text())["starts"]) == 2


def test_finished_run_is_not_trained_again(tmp_path):
    first = train(recipe_of(), tmp_path, data=tiny(), title=None)
    stamp = (tmp_path / RESUME).stat().st_mtime_ns
    again = train(recipe_of(), tmp_path, data=tiny(), title=None)
    assert (tmp_path / RESUME).stat().st_mtime_ns == stamp
    assert again.history == first.history
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_another_run_is_refused_unless_told_so(tmp_path):
    train(recipe_of(), tmp_path, data=tiny(), title=None)
    with pytest.raises(ValueError, match=r"other settings \(optimizer\.lr 0\.003 -> 0\.1, epochs 3 -> 4\); use an"):
        train(recipe_of("--epochs=4", "--optimizer.lr=0.1"), tmp_path, data=tiny())
    with pytest.raises(ValueError, match=r"other settings \(the images\)"):
        train(recipe_of(), tmp_path, data=tiny(count=64))
    train(recipe_of("--machine.save_minutes=3", "--machine.workers=1"), tmp_path, data=tiny(), title=None)
    run = train(recipe_of("--epochs=4"), tmp_path, data=tiny(), title=None, anyway=True)
    assert len(run.history) == 4
    record = json.loads((tmp_path / ENVIRONMENT).read_text())
    (tmp_path / ENVIRONMENT).write_text(json.dumps({**record, "devices": 2}))
    with pytest.raises(ValueError, match=r"other settings \(devices 2 -> 1\)"):
        train(recipe_of("--epochs=4"), tmp_path, data=tiny())
    (tmp_path / ENVIRONMENT).write_text("{")
    with pytest.raises(ValueError, match=r"environment\.json is damaged"):
        train(recipe_of(), tmp_path, data=tiny())


def test_folder_with_a_name_that_is_no_utf8_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--out must have a name in UTF-8"):
        train(recipe_of(), tmp_path / os.fsdecode(b"run\xff"), data=tiny())
    assert not list(tmp_path.iterdir())


def test_folder_in_use_is_refused(tmp_path):
    with FileLock(tmp_path / LOCK), pytest.raises(ValueError, match=r"is in use by another process; wait for it"):
        train(recipe_of(), tmp_path, data=tiny())
    assert not (tmp_path / CONFIG).exists()
    train(recipe_of("--epochs=1"), tmp_path, data=tiny(), title=None)


def test_damaged_progress_is_named(tmp_path):
    (tmp_path / RESUME).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read .*; remove it to start anew"):
        train(recipe_of(), tmp_path, data=tiny())


def test_rest_of_a_killed_save_is_cleared(tmp_path):
    beside(tmp_path / RESUME).write_bytes(b"half a file")
    train(recipe_of("--epochs=1"), tmp_path, data=tiny(), title=None)
    assert {path.name for path in tmp_path.iterdir()} == KEPT


def test_loss_that_is_not_finite_stops(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"(loss|weights) stopped being finite at .* there is no checkpoint yet"
    ):
        train(recipe_of("--optimizer.lr=1e30"), tmp_path, data=tiny(), title=None)
    assert not (tmp_path / RESUME).exists()


def test_loss_that_is_not_finite_stops_at_once(tmp_path, monkeypatch):
    step = ClassificationTask.training_step
    monkeypatch.setattr(
        ClassificationTask,
        "training_step",
        lambda self, batch, index: step(self, batch, index) * (float("nan") if index == 1 else 1),
    )
    with pytest.raises(FloatingPointError, match=r"the loss stopped being finite at optimiser step 2; there is no"):
        train(recipe_of(), tmp_path, data=tiny(), title=None)


def test_last_good_checkpoint_is_named_and_stays(tmp_path, monkeypatch):
    data, recipe = tiny(), recipe_of("--epochs=4")
    original = History.on_train_epoch_end

    def spoil(self, trainer, task):
        original(self, trainer, task)
        if trainer.current_epoch == 1:
            next(task.model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(History, "on_train_epoch_end", spoil)
    with pytest.raises(
        FloatingPointError, match=r"weights stopped .* step 6; the last good checkpoint is .* step 3; use"
    ):
        train(recipe, tmp_path, data=data, title=None)
    assert torch.load(tmp_path / RESUME, weights_only=True)["global_step"] == 3


def test_disk_full_while_saving_keeps_the_checkpoint(tmp_path, monkeypatch):
    save = torch.save

    def full(state, path):
        if state["global_step"] == 6:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(Failed, match=r"No space left on device \(in .*\); make room, then the same command goes on"):
        train(recipe_of(), tmp_path, data=tiny(), title=None)
    assert torch.load(tmp_path / RESUME, weights_only=True)["global_step"] == 3
    assert not list(tmp_path.glob(f".{RESUME}.*"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["--batch_size=64"], "batch_size must be at most the 48 training images, got 64"),
        (
            ["--batch_size=15", "--accumulate=2"],
            "must be a multiple of accumulate x devices = 2 x 1, got 15; 14 would do",
        ),
        (["--model.name=aa_resnet5O"], "no model 'aa_resnet5O'"),
        (["--model.options={positoin: sine}"], "positoin"),
        (["--machine.accelerator=gpu"], "machine: "),
        (["--machine.loggers=[comet]"], "comet"),
    ],
)
def test_refused_before_training(tmp_path, overrides, message):
    if "--machine.accelerator=gpu" in overrides and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises((ValueError, TypeError, ModuleNotFoundError), match=message):
        train(recipe_of(*overrides), tmp_path / "run", data=tiny())
    assert not (tmp_path / "run" / RESUME).exists()


def test_last_images_that_fill_no_step_do_no_harm(tmp_path):
    """Of 49 images the 49th alone would be a batch of one, which batch norm refuses."""
    run = train(recipe_of("--epochs=2"), tmp_path, data=tiny(count=49), title=None)
    assert run.history[-1]["step"] == 6


@pytest.mark.parametrize(
    "overrides",
    [
        ["--machine.precision=bf16"],
        ["--machine.channels_last=true"],
        ["--augment.rand_augment=9", "--augment.cutmix=1", "--augment.mixup=0.2", "--label_smoothing=0.1"],
        ["--optimizer.name=rmsprop", "--schedule.name=exponential", "--optimizer.clip_norm=1"],
        ["--model.options={drop_rate: 0.1}", "--optimizer.name=sgd", "--schedule.name=constant"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_switches_train(tmp_path, overrides):
    run = train(recipe_of("--optimizer.lr=1e-3", "--epochs=1", *overrides), tmp_path, data=tiny(), title=None)
    assert run.history[0]["train_loss"] > 0


def test_compiled_network_trains(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    train(recipe_of("--epochs=1", "--machine.compile=true"), tmp_path, data=tiny(), title=None)
    assert compiled == ["SmallResNet"]


def test_dry_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = dry_run(recipe_of("--data.name=cifar100", "--data.size=32", "--augment.crop=pad", "--accumulate=2"))
    assert said.startswith("aa_resnet10xs_r25: ")
    assert "100 classes; one step on synthetic images works" in said
    assert not list(tmp_path.iterdir())
