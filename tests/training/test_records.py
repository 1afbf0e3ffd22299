"""A run's folder says what was run, refuses another run, and its card says what was measured."""

import json
import os
import platform
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from aaconv import __version__
from aaconv.training.checkpoint import ModelCard
from aaconv.training.config import DataConfig, MachineConfig, ModelConfig, OptimizerConfig, Recipe, ScheduleConfig
from aaconv.training.recipes import load_recipe
from aaconv.training.records import CARD, CONFIG, ENVIRONMENT, PACKAGES, claim, environment, write_card
from aaconv.training.task import ClassificationTask

RECIPE = Recipe(
    model=ModelConfig(options={"position": "sine"}),
    data=DataConfig(name="folder", path="images"),
    schedule=ScheduleConfig(name="step", milestones=(3, 5)),
    epochs=4,
    batch_size=64,
    seed=7,
)


def start(folder, recipe=RECIPE, fingerprint="abc-def", world=1, anyway=False):
    claim(folder, recipe, fingerprint, world, anyway=anyway)


def record(folder):
    return json.loads((folder / ENVIRONMENT).read_text())


def changed(**values):
    return replace(RECIPE, **values)


def test_new_folder_gets_configuration_and_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/aaconv", "train", "my recipe.yaml", "--epochs=4"])
    start(tmp_path / "run", world=2)
    assert load_recipe(tmp_path / "run" / CONFIG) == RECIPE
    found = record(tmp_path / "run")
    assert (found["data"], found["devices"]) == ("abc-def", 2)
    assert [entry["command"] for entry in found["starts"]] == ["aaconv train 'my recipe.yaml' --epochs=4"]
    assert found["starts"][0]["time"].endswith("+00:00")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {CONFIG, ENVIRONMENT}


def test_the_same_run_goes_on(tmp_path, monkeypatch):
    start(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aaconv", "again"])
    start(tmp_path, changed(machine=MachineConfig(workers=3, save_steps=9)))
    assert [entry["command"] for entry in record(tmp_path)["starts"]][1:] == ["aaconv again"]
    assert load_recipe(tmp_path / CONFIG).machine.workers == 3


@pytest.mark.parametrize(
    "values, message",
    [
        ({"recipe": changed(epochs=5)}, r"\(epochs 4 -> 5\)"),
        (
            {"recipe": changed(optimizer=OptimizerConfig(lr=0.1), seed=8)},
            r"\(optimizer\.lr 0\.003 -> 0\.1, seed 7 -> 8\)",
        ),
        ({"recipe": changed(model=ModelConfig())}, r"\(model\.options\.position 'sine' -> None\)"),
        ({"recipe": changed(schedule=ScheduleConfig(name="step", milestones=(3,)))}, r"milestones \[3, 5\] -> \[3\]\)"),
        ({"fingerprint": "abc-other"}, r"\(the images\)"),
        ({"world": 2}, r"\(devices 1 -> 2\)"),
        ({"recipe": changed(epochs=5), "fingerprint": "x", "world": 4}, r"epochs 4 -> 5, the images, devices 1 -> 4\)"),
    ],
)
def test_another_run_is_refused_and_changes_nothing(tmp_path, values, message):
    start(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds a run with other settings .*{message}; use another --out folder, or"):
        start(tmp_path, **values)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    start(tmp_path, **values, anyway=True)
    assert load_recipe(tmp_path / CONFIG) == values.get("recipe", RECIPE)
    assert record(tmp_path)["data"] == values.get("fingerprint", "abc-def")
    assert len(record(tmp_path)["starts"]) == 2
    start(tmp_path, **values)  # now it is this run


def test_without_its_environment_the_configuration_still_counts(tmp_path):
    start(tmp_path)
    (tmp_path / ENVIRONMENT).unlink()
    with pytest.raises(ValueError, match=r"other settings \(epochs 4 -> 5\)"):
        start(tmp_path, changed(epochs=5))
    start(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"data": "abc-def"}', "\x00"])
def test_damaged_environment_is_named(tmp_path, content):
    start(tmp_path)
    (tmp_path / ENVIRONMENT).write_text(content)
    with pytest.raises(ValueError, match=r"environment\.json is damaged .*; use another --out folder"):
        start(tmp_path)


def test_environment_is_this_machine_s():
    found = environment()
    assert found["aaconv"] == __version__
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == version("torch")
    assert set(found["packages"]) <= set(PACKAGES)
    assert {"torch", "timm", "pytorch-lightning", "numpy"} <= set(found["packages"])
    assert found["cpus"] == os.cpu_count()
    assert found["threads"] == torch.get_num_threads()
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["processor"]
    json.dumps(found)


CARD_OF_RUN = ModelCard(
    "aa_wrn10_2", tuple("abc"), 3, 24, (0.5,) * 3, (0.2,) * 3, data="folder", options={"position": "sine"}
)
FACTS = {"train": 12345, "val": "2,345", "skipped": 0, "parameters": 1234567, "gflops": 0.56789}


def rows(*accuracies):
    """Metrics of as many epochs of ten steps and 100 seconds."""
    return [
        {
            **{f"train_{name}": 0.123 for name in ("loss", "accuracy", "top5")},
            **{"epoch": float(epoch), "step": 10.0 * epoch, "seconds": 100.0},
            **{"val_loss": 3 - accuracy, "val_accuracy": accuracy, "val_top5": (1 + accuracy) / 2},
        }
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


def page_of(folder, history, **facts):
    start(folder)
    held = record(folder)
    held |= {"processor": "Abacus 9", "threads": 3, "devices": 2, "gpus": [], "packages": {"torch": "1.2", "timm": "3"}}
    held["starts"] = [{"time": f"day {i}", "command": f"aaconv train {i}"} for i in (1, 2)]
    (folder / ENVIRONMENT).write_text(json.dumps({**held, **facts.pop("held", {})}))
    write_card(folder, RECIPE, CARD_OF_RUN, history, {**FACTS, **facts}, ClassificationTask)
    return (folder / CARD).read_text(encoding="utf-8")


def test_card_holds_what_was_measured(tmp_path):
    page = page_of(tmp_path, rows(0.5, 0.875, 0.875, 0.625))
    lines = page.splitlines()
    assert lines[0] == "# aa_wrn10_2 on folder"
    assert f"Trained with aaconv {__version__}; every figure was measured in this run (seed 7)." in lines
    assert "| `model.safetensors`, last epoch | 62.50% | 81.25% | 2.3750 | 4 |" in lines
    assert "| `best.safetensors` | 87.50% | 93.75% | 2.1250 | 2 |" in lines  # the first of the best, as it is kept
    assert (
        '* Network: `aa_wrn10_2`, options {"position": "sine"}; 1,234,567 parameters, 0.5679 GFLOPs an image of 24x24 '
        "pixels." in lines
    )
    assert "* Images: 12,345 for training, 2,345 for evaluation, 3 classes; fingerprint `abc-def`." in lines
    assert "* 4 epochs, 40 optimiser steps of 64 images, 400 s on 2 x Abacus 9, 3 threads." in lines
    assert f"* torch 1.2 timm 3, Python {platform.python_version()}." in lines
    first = lines.index("day 1  aaconv train 1")
    assert lines[first - 1 : first + 3] == ["```", "day 1  aaconv train 1", "day 2  aaconv train 2", "```"]


def test_card_says_what_was_left_out_and_names_gpus(tmp_path):
    page = page_of(tmp_path, rows(0.5), skipped=17, val="all of their shards", held={"gpus": ["Fast 1", "Fast 1"]})
    assert "all of their shards for evaluation, 3 classes; 17 unreadable ones left out; fingerprint" in page
    assert "100 s on 2 x Fast 1." in page
    assert "Abacus" not in page
