"""What is no file where a file is wanted: one line and exit code 2, and nothing is read without end or waited for."""

import os

import matplotlib
import numpy as np
import pytest
from PIL import Image

from aaconv.cli import main
from aaconv.data.images import ImageReadError, read_image
from aaconv.data.listing import list_classes, survey
from tests.untrusted.guard import guarded

PACKAGED = "digits"  # checkpoint
COMMANDS = {  # the odd path stands for {}
    "train": ["train", "{}.yaml"],
    "train in a folder": ["train", "./{}"],
    "train on": ["train", "folder", "--data.path", "{}"],
    "train on files": ["train", "files", "--data.path", "{}", "--data.size", "16"],
    "train on shards": ["train", "imagenet_shards", "--data.path", "{}", "--data.val_path", "{}"],
    "train on CIFAR": ["train", "cifar100", "--data.path", "{}"],
    "train from weights": ["train", "digits", "--model.weights", "{}"],
    "recipe": ["recipes", "./{}"],
    "evaluate": ["eval", "{}", "--data", "digits"],
    "evaluate on": ["eval", PACKAGED, "--data", "{}"],
    "evaluate on a shard": ["eval", PACKAGED, "--data", "{}.tar"],
    "evaluate on CIFAR": ["eval", PACKAGED, "--data", "cifar10", "--path", "{}"],
    "predict with": ["predict", "--checkpoint", "{}", "a.png"],
    "predict": ["predict", "--checkpoint", PACKAGED, "{}"],
    "results": ["tables", "--results", "{}"],
    "explain with": ["explain", "--checkpoint", "{}"],
    "explain": ["explain", "--checkpoint", PACKAGED, "{}"],
    "train a detector on": ["detect", "train", "detect_coco", "--data.path", "{}"],
    "annotations": ["detect", "train", "detect_coco", "--data.path=.", "--data.train_images=", "--data.train_boxes={}"],
    "evaluate a detector": ["detect", "eval", "{}"],
    "evaluate a detector on": ["detect", "eval", "detect_digits", "--boxes", "{}", "--images", "."],
    "find boxes with": ["detect", "predict", "--checkpoint", "{}", "a.png"],
    "find boxes": ["detect", "predict", "--checkpoint", "detect_digits", "--out", "boxes", "{}"],
}  # fmt: skip
ODD = ["folder", "pipe", "zeros", "long", "deep", "null", "steering", "nothing"]


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Kernels, and what matplotlib keeps, are there before anything is watched."""
    matplotlib.get_configdir(), matplotlib.get_cachedir()
    main(["predict", "--checkpoint", PACKAGED, "none.png"])


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Makes the odd path and returns its name."""
    monkeypatch.chdir(tmp_path)

    def make(kind, suffix=""):
        match kind:
            case "folder":
                os.mkdir("folder" + suffix)
            case "pipe":
                os.mkfifo("pipe" + suffix)
            case "zeros":
                os.symlink("/dev/zero", "zeros" + suffix)
            case "long":
                return "x" * 300
            case "deep":
                return "x/" * 3000 + "x"
            case "null":
                return "a\0b"
            case "steering":
                return "a\x1b[31m\rb"
        return kind

    return make


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_and_exit_2(command, kind, odd, tmp_path, capsys):
    suffix = next((text.removeprefix("./").partition("{}")[2] for text in COMMANDS[command] if "{}" in text), "")
    name = odd(kind, suffix)
    before = sorted(entry.name for entry in tmp_path.iterdir())
    with guarded(f"{command}, {kind}", room=2**33):
        code = main([part.replace("{}", name) for part in COMMANDS[command]])
    printed, said = capsys.readouterr()
    assert (code, printed) == (2, "")
    assert said.startswith("aaconv: ")
    assert len(said.splitlines()) == 1
    assert "\x1b" not in said
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def test_pipes_and_devices_among_the_images_of_a_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name / "good.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "b" / "zeros.jpg")
    os.mkdir(tmp_path / "b" / "folder.png")
    with guarded("listing"):
        files = list_classes(tmp_path)
        channels, broken = survey([path for paths in files.values() for path in paths])
    assert channels == 1
    assert sorted(path.name for path in broken) == ["pipe.png", "zeros.jpg"]
    for path in broken:
        with guarded(path.name), pytest.raises(ImageReadError, match=rf"{path.name}: a device or pipe, not a file"):
            read_image(path, 1, 4)
