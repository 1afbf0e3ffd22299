"""The command line: what it prints, its exit codes, one line for every mistake."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from aaconv import __version__, cli
from aaconv._errors import Failed, Stopped
from aaconv.cli import main
from tests.detection.box_files import TRAIN, VAL, lay_both, save_detector


@pytest.fixture
def classes(tmp_path):
    """A folder of two classes, bright left and bright right, 24 grey and colour images of several sizes."""
    root = tmp_path / "my images 사진"
    for label, name in enumerate(("left", "right")):
        (root / name).mkdir(parents=True)
        for i in range(24):
            picture = np.random.default_rng(i).integers(0, 60, (40, 40 + i, 3), np.uint8)
            half = picture.shape[1] // 2
            picture[:, label * half : (label + 1) * half] += 150
            Image.fromarray(picture if i % 2 else picture[:, :, 0]).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def boxes(tmp_path):
    """Images with boxes in COCO's format."""
    return lay_both(tmp_path / "my boxes 사진")


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def options_of(classes, out, *others):
    usual = ("--data.path", classes, "--out", out, "--data.size", 16, "--batch_size", 12, "--machine.loggers", "[]")
    return ("train", "folder", *usual, *others)


def test_train_evaluate_predict(classes, tmp_path, capsys):
    out = tmp_path / "run"
    command = options_of(classes, out, "--model.name", "aa_resnet10xs_r25", "--epochs", 12)
    code, printed, progress = run(capsys, *command)
    assert code == 0, progress
    assert "accuracy 100.0% after 12 epochs" in printed
    assert f"checkpoint: {out / 'model.safetensors'}" in printed
    assert "12/12" in progress
    code, printed, _ = run(
        capsys, "eval", out / "model.safetensors", "--data", classes, "--json", tmp_path / "measured.json"
    )
    assert code == 0
    assert printed.startswith("accuracy 100.00%, top-5 100.00%, loss 0.")
    assert json.loads((tmp_path / "measured.json").read_text())["images"] == 48
    images = [classes / "left" / "0.png", classes / "right" / "3.png"]
    code, printed, _ = run(capsys, "predict", "--checkpoint", out / "model.safetensors", *images)
    assert code == 0
    lines = printed.splitlines()
    assert lines[0].startswith(f"{images[0]}: left 0.9")
    assert lines[1].startswith(f"{images[1]}: right 0.9")


def detect_train(boxes, out, *others):
    usual = ("--data.name", "coco", "--data.path", boxes, "--out", out, "--data.size", 64, "--batch_size", 3)
    return ("detect", "train", "detect_digits", *usual, "--epochs", 2, "--machine.loggers", "[]", *others)


def test_detect_train_evaluate_predict(boxes, tmp_path, capsys):
    out, found = tmp_path / "run", tmp_path / "found"
    command = detect_train(boxes, out, "--model.options.score_thresh", 0.0)
    code, printed, progress = run(capsys, *command)
    assert code == 0, progress
    lines = printed.splitlines()
    assert lines[0].startswith("mAP 0.")
    assert lines[0].endswith(" after 2 epochs")
    assert lines[1] == f"checkpoint: {out / 'model.safetensors'}"
    assert "2/2: train_loss" in progress
    val = ("--boxes", boxes / "annotations" / f"instances_{VAL}.json", "--images", boxes / VAL)
    code, printed, progress = run(
        capsys, "detect", "eval", out / "model.safetensors", *val, "--out", tmp_path / "scores"
    )
    assert code == 0, progress
    assert len(printed.splitlines()) == 12
    assert printed.startswith(" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.")
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())["detections"] == 600
    images = [boxes / VAL / "0.png", boxes / VAL / "1.png"]
    predict = ("detect", "predict", "--checkpoint", out / "model.safetensors", "--out", found)
    code, printed, _ = run(capsys, *predict, "--threshold", 0, *images)
    assert code == 0
    lines = printed.splitlines()
    for line, image in zip(lines, images, strict=False):
        assert re.match(rf"{image}: (tall|wide|never) 0\.\d\d at \(\d+, \d+\) to \(\d+, \d+\), ", line)
    assert lines[2] == f"drawings: {found}"
    assert {path.name for path in found.iterdir()} == {"0.png", "1.png", "boxes.json"}
    code, printed, _ = run(capsys, *predict, "--threshold", 1, images[0])
    assert (code, printed.splitlines()[0]) == (0, f"{images[0]}: nothing")


def test_configuration_of_detection_is_printed_and_can_be_given_again(tmp_path, capsys):
    code, printed, _ = run(capsys, "detect", "train", "detect_digits", "--augment.largest", "3", "--print-config")
    assert code == 0
    assert "largest: 3.0" in printed
    (tmp_path / "mine.yaml").write_text(printed)
    code, again, _ = run(capsys, "detect", "train", tmp_path / "mine.yaml", "--print-config")
    assert (code, again) == (0, printed)


def test_dry_run_of_detection(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, said = run(capsys, "detect", "train", "detect_digits", "--data.size", 32, "--dry-run")
    assert (code, said) == (0, "")
    assert "10 classes; one step on synthetic images works" in printed
    assert not list(tmp_path.iterdir())


def test_configuration_is_printed_and_can_be_given_again(tmp_path, capsys):
    code, printed, _ = run(capsys, "train", "digits", "--optimizer.lr", "1e-4", "--print-config")
    assert code == 0
    (tmp_path / "mine.yaml").write_text(printed)
    code, again, _ = run(capsys, "train", tmp_path / "mine.yaml", "--print-config")
    assert (code, again) == (0, printed)
    assert "lr: 0.0001" in printed


def test_recipes_are_listed(capsys):
    code, printed, _ = run(capsys, "recipes")
    assert code == 0
    assert "cifar100_aa" in printed
    code, printed, _ = run(capsys, "recipes", "digits")
    assert (code, printed.startswith("# ")) == (0, True)


def test_dry_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, _ = run(capsys, "train", "digits", "--dry-run")
    assert code == 0
    assert "one step on synthetic images works" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.hard
def test_tables_are_printed_or_written(tmp_path, capsys):
    code, printed, _ = run(capsys, "tables")
    assert code == 0
    assert "aa_resnet50_r100" in printed
    code, printed, _ = run(capsys, "tables", "--format", "csv", "--out", tmp_path / "deep" / "tables.csv")
    assert (code, printed) == (0, "")
    assert "aa_resnet50_r100" in (tmp_path / "deep" / "tables.csv").read_text()


def test_models_are_listed(capsys):
    code, printed, _ = run(capsys, "models", "aa_resnet50*")
    assert (code, printed.split()[0]) == (0, "aa_resnet50")
    code, printed, _ = run(capsys, "models", "*resnet10s", "--counts")
    assert code == 0
    assert "M parameters" in printed


def test_augment_prints_its_report(tmp_path, capsys):
    for name in ("resnet18", "torchvision:resnet18"):
        code, printed, error = run(capsys, "augment", name, "--img-size", 64, "--json", tmp_path / "report.json")
        assert code == 0, error
        assert "layer4.1.conv1" in printed
        assert "layer4.1.conv1" in (tmp_path / "report.json").read_text()


MISTAKES = {
    "no such model to list": (["models", "zz*"], "no model matches 'zz*'"),
    "no such model to augment": (["augment", "resnet5O"], "no model 'resnet5O'; nearest: resnet50"),
    "no such model of torchvision's": (["augment", "torchvision:resnet5O"], "nearest: torchvision:resnet50"),
    "too many edges": (["augment", "resnet18", "--img-size", "1", "2", "3"], "takes an edge, or height and width"),
    "ratio too large": (["augment", "resnet18", "--key-ratio", "2"], "key_ratio must lie in (0, 1], got key_ratio=2.0"),
    "no results": (["tables", "--results", "nothing.csv"], "nothing.csv"),
    "no such format": (["tables", "--format", "html"], "invalid choice: 'html'"),
    "no command": ([], "the following arguments are required: COMMAND"),
    "unknown command": (["trian"], "invalid choice: 'trian'"),
    "no recipe": (["train"], "the following arguments are required: RECIPE"),
    "unknown recipe": (["train", "digit"], "got 'digit'; did you mean 'digits'?"),
    "no recipe file": (["train", "my.yaml"], "recipe my.yaml does not exist"),
    "recipe is a folder": (["train", ".."], "is a folder, not a file"),
    "unknown option": (["train", "digits", "--epoch", "3"], "no key --epoch of a recipe takes a value; try --epochs"),
    "group of keys": (
        ["train", "digits", "--data", "mine"],
        "no key --data of a recipe takes a value; try --data.name",
    ),
    "word too many": (["train", "digits", "clutter"], "command line: unrecognized arguments: clutter"),
    "unknown option elsewhere": (["models", "--count"], "unrecognized arguments: --count"),
    "key given twice": (["train", "digits", "--epochs=1", "--epochs=2"], "--epochs is given twice"),
    "wrong type": (["train", "digits", "--epochs", "three"], "Parser key \"epochs\": Expected a <class 'int'>"),
    "nothing to evaluate": (["eval", "a.safetensors"], "the following arguments are required: --data"),
    "no such data set": (["data", "get", "cifar"], "must be one of ['cifar10', 'cifar100'], got 'cifar'"),
    "one seed": (["reproduce", "--seeds", "1"], "seeds must be at least 2, got seeds=1"),
    "no such task": (["reproduce", "--tasks", "digit"], "got 'digit'; did you mean 'digits'?"),
    "nothing to predict": (["predict", "--checkpoint", "a"], "the following arguments are required: IMAGE"),
    "no checkpoint": (["predict", "--checkpoint", "none.safetensors", "a.png"], "no checkpoint file none.safetensors"),
    "no data": (["train", "folder"], "data.path must say where folder lies"),
    "no folder": (["train", "folder", "--data.path", "none"], "no folder none"),
    "no archive": (
        ["train", "cifar100", "--data.path", "none"],
        "no file or folder none; `aaconv data get cifar100`",
    ),
    "unknown model": (
        ["train", "digits", "--model.name", "aa_resnet5O"],
        "no model 'aa_resnet5O'; nearest: aa_resnet50",
    ),
    "no epochs": (["train", "digits", "--epochs", "0"], "epochs must be at least 1, got epochs=0"),
    "rate of nan": (
        ["train", "digits", "--optimizer.lr", "nan"],
        "Parser key \"optimizer.lr\": Expected a <class 'float'>. Got value: nan",
    ),
    "tiny canvas": (["train", "digits", "--data.size", "9"], "edge must be at least 17 for gap=1, got edge=9"),
    "no command of detection": (["detect"], "the following arguments are required: COMMAND"),
    "unknown command of detection": (["detect", "trian"], "invalid choice: 'trian'"),
    "no recipe of detection": (["detect", "train"], "the following arguments are required: RECIPE"),
    "unknown recipe of detection": (["detect", "train", "detect_digit"], "did you mean 'detect_digits'?"),
    "recipe of classification": (
        ["detect", "train", "digits"],
        "recipe digits is of another task; use 'aaconv train digits'",
    ),
    "recipe for boxes": (["train", "detect_digits"], "is of another task; use 'aaconv detect train detect_digits'"),
    "classifier for boxes": (
        ["detect", "train", "detect_digits", "--model.name", "aa_resnet10s"],
        "model.name must be a detector, got aa_resnet10s; there are ",
    ),
    "detector without boxes": (
        ["train", "digits", "--model.name", "aa_retinanet_resnet10_fpn"],
        "model.name must be a classifier, got aa_retinanet_resnet10_fpn",
    ),
    "norms that were never trained": (
        ["detect", "train", "detect_digits", "--model.options.norm", "frozen"],
        "model.options.norm must be batch without model.backbone or model.weights, got frozen",
    ),
    "key of classification": (
        ["detect", "train", "detect_digits", "--label_smoothing", "0.1"],
        "no key --label_smoothing of a recipe takes a value",
    ),
    "no images with boxes": (
        ["detect", "train", "detect_coco"],
        "data.path must say where the folder in COCO's format",
    ),
    "no folder of boxes": (["detect", "train", "detect_coco", "--data.path", "none"], "no folder of images none/train"),
    "no detector to evaluate": (["detect", "eval"], "the following arguments are required: CHECKPOINT"),
    "no file of a detector": (["detect", "eval", "none.safetensors"], "no checkpoint file none.safetensors"),
    "no batch": (["detect", "eval", "a", "--batch-size", "0"], "batch_size must be at least 1, got batch_size=0"),
    "shortened option": (["detect", "eval", "a", "--box", "b"], "unrecognized arguments: --box b"),
    "threshold too high": (
        ["detect", "predict", "--checkpoint", "a", "--threshold", "2", "a.png"],
        "threshold must lie in [0, 1], got threshold=2.0",
    ),
    "threshold in words": (
        ["detect", "predict", "--checkpoint", "a", "--threshold", "half", "a.png"],
        "invalid float value: 'half'",
    ),
    "nothing to find boxes on": (
        ["detect", "predict", "--checkpoint", "a"],
        "the following arguments are required: IMAGE",
    ),
    "no demo epochs": (["demo", "--epochs", "0"], "epochs must be at least 1, got epochs=0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line_and_exit_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = MISTAKES[name]
    code, printed, said = run(capsys, *arguments)
    assert code == 2
    assert printed == ""
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_broken_images_stop_before_training(classes, tmp_path, capsys):
    (classes / "left" / "bad.png").write_bytes(b"no image")
    code, _, said = run(capsys, *options_of(classes, tmp_path / "run"))
    assert code == 2
    assert "1 of 49 images cannot be read" in said
    assert not (tmp_path / "run").exists()


def test_files_that_detection_cannot_use_get_one_line_and_exit_2(boxes, tmp_path, capsys):
    checkpoint, text = save_detector(tmp_path / "detector.safetensors"), tmp_path / "text"
    text.write_text("no file of ours")
    train, val = (boxes / "annotations" / f"instances_{part}.json" for part in (TRAIN, VAL))
    whole = train.read_text()
    train.write_text(whole[:-9])
    predict = ("detect", "predict", "--out", tmp_path / "found", "--checkpoint")
    cases = [
        (detect_train(boxes, tmp_path / "run"), f"instances_{TRAIN}.json: not JSON in UTF-8"),
        (detect_train(boxes, tmp_path / "run", "--data.train_boxes", "none.json"), "no annotation file"),
        (("detect", "eval", text), "text is no safetensors checkpoint"),
        (("detect", "eval", checkpoint, "--boxes", val), "--images must say which folder the images of"),
        (("detect", "eval", checkpoint, "--boxes", text, "--images", boxes), "text: not JSON in UTF-8"),
        (("detect", "eval", checkpoint, "--boxes", val, "--images", boxes), "6 of the 6 images of"),
        ((*predict, text, boxes / VAL / "0.png"), "text is no safetensors checkpoint"),
        ((*predict, checkpoint, text), "text: not an image that can be read"),
        ((*predict, checkpoint, tmp_path / "none.png"), "no image file"),
    ]
    for arguments, message in cases:
        code, printed, said = run(capsys, *arguments)
        assert (code, printed) == (2, ""), arguments
        assert message in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "found").exists()


def test_unwritable_output(classes, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, said = run(capsys, *options_of(classes, tmp_path / "file" / "run"))
    assert code == 2
    assert "Not a directory" in said
    assert len([line for line in said.splitlines() if line.startswith("aaconv: ")]) == 1


@pytest.mark.parametrize(
    "error, code, message",
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last checkpoint"),
        (FloatingPointError("the loss is nan"), 1, "the loss is nan"),
        (Stopped("stopped by SIGTERM"), 130, "stopped by SIGTERM"),
        (Failed("no memory"), 1, "no memory"),
        (ModuleNotFoundError("x", name="pytorch_lightning"), 2, "needs the package 'pytorch_lightning': pip install"),
        (ValueError("a\nb   c"), 2, "aaconv: a b c"),
    ],
)
def test_exit_codes(error, code, message, monkeypatch, capsys):
    def fail(options):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "demo", (lambda parser: None, fail, "text"))
    got, _, said = run(capsys, "demo")
    assert got == code
    assert message in said


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["predict", "--debug", "--checkpoint", str(tmp_path / "none"), "a.png"])


def test_read_only_run_folder(classes, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    out.chmod(0o500)
    if os.access(out, os.W_OK):
        pytest.skip("this user may write everywhere")
    code, _, said = run(capsys, *options_of(classes, out))
    assert (code, "Permission denied" in said) == (2, True)


def test_bugs_are_not_dressed_up_as_mistakes(monkeypatch):
    def fail(options):
        raise KeyError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "demo", (lambda parser: None, fail, "text"))
    with pytest.raises(KeyError):
        main(["demo"])


def test_installed_command_helps_at_once():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "aaconv", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 5  # a tenth of a second here; torch alone would take longer than this
    for name in ("demo", "train", "eval", "recipes", "data", "reproduce", "predict"):
        assert name in done.stdout
    assert (
        f"aaconv {__version__}"
        in subprocess.run(
            [sys.executable, "-m", "aaconv", "--version"], capture_output=True, text=True, check=True
        ).stdout
    )
