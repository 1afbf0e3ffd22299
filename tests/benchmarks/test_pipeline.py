"""The benchmark of what feeds training: parity with torchvision before time, and every contender in what it writes."""

import json
import sys

import pytest
import torch

from aaconv.data.augmentation import NOISE
from aaconv.data.views import random_box
from aaconv.training.loaders import Batch


@pytest.fixture
def pipeline(load):
    """The program."""
    return load("pipeline")


def run(pipeline, monkeypatch, *arguments):
    tiny = ["--repeats", "1", "--images", "70", "--batch", "16", "--files", "32", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *tiny, *arguments])
    return pipeline.main()


def test_every_contender_is_timed_and_written(pipeline, monkeypatch, tmp_path, capsys):
    assert run(pipeline, monkeypatch, "--out", str(tmp_path)) == 0
    report = json.loads((tmp_path / "pipeline.json").read_text())
    assert [(row["input"], row["name"]) for row in report["rows"]] == [
        ("memory", "aaconv"),
        ("memory", "aaconv, floats"),
        ("memory", "torchvision"),
        ("memory", "torchvision, floats"),
        ("files", "aaconv"),
        ("files", "torchvision"),
    ]
    assert all(row["value"] > 0 for row in report["rows"])
    assert report["machine"]["torch"] == torch.__version__
    assert len(capsys.readouterr().out.splitlines()) == len(report["rows"]) + 1


def one_off(images, noise, *, padding, flip):
    return images.roll(1, dims=3)


def next_to_it(width, height, generator):
    left, top, right, bottom = random_box(width - 9, height, generator)
    return left + 9, top, right + 9, bottom


def twice(data, size, epoch):
    indices = torch.arange(size) // 2
    return [Batch(*data.read(indices), torch.rand(size, NOISE))]


@pytest.mark.parametrize(
    "name, wrong, said",
    [
        ("crop_and_flip", one_off, "shifted and mirrored"),
        ("random_box", next_to_it, "cut and resized"),
        ("batches", twice, "each image once an epoch"),
    ],
)
def test_nothing_is_timed_when_something_is_wrong(pipeline, monkeypatch, tmp_path, capsys, name, wrong, said):
    monkeypatch.setattr(pipeline, name, wrong)
    assert run(pipeline, monkeypatch, "--out", str(tmp_path)) == 1
    assert f"not timed: {said} differ from torchvision's" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_count_is_that_of_whole_batches(pipeline):
    data = pipeline.noise(70)
    assert pipeline.in_memory(data, 16)["aaconv, floats"](0) == 64
