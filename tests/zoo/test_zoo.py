"""The packaged checkpoints are what their cards say."""

import re

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torchvision.ops import box_iou

from aaconv.cli import main
from aaconv.data.clutter import compose_clutter
from aaconv.data.digit_pairs import CLASSES, compose_pairs
from aaconv.data.scenes import scene
from aaconv.explain.look import Network
from aaconv.training.checkpoint import load_checkpoint
from aaconv.training.predict import probabilities
from aaconv.zoo import FOLDER, checkpoints, locate_checkpoint

NAMES = ["digits", "clutter", "detect_digits", "digits_no_positions"]


def card_of(name):
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([\w, ]+) \| (.*) \|$", text, re.MULTILINE))


def test_names_and_titles():
    assert list(checkpoints()) == NAMES
    assert checkpoints()["digits"] == "Same digit or not, far apart on one canvas"


@pytest.mark.parametrize("name", NAMES)
def test_loads_small_finite_and_in_float32(name):
    path = locate_checkpoint(name)
    assert path.stat().st_size < 2_000_000
    with safe_open(path, framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118
    model, card = load_checkpoint(name, detector=None)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    told = card_of(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert told["network"] == f"`{card.model}`, {count:,} parameters"
    assert told["file"].startswith(f"{path.stat().st_size:,} bytes")
    assert re.fullmatch(r"`aaconv (detect )?train \w+( --\S+ \w+)?`", told["made by"])
    assert told["seed"] == "0"


def share_of_right(name, images, labels):
    model, card = load_checkpoint(name)
    return (probabilities(model, card, images).argmax(dim=1) == labels).float().mean().item()


@pytest.mark.parametrize("name", ["digits", "clutter", "digits_no_positions"])
def test_accuracy_is_the_cards(name):
    count = 500
    compose = compose_clutter if name == "clutter" else compose_pairs
    found = compose("test", count, seed=0)
    told = float(re.match(r"([\d.]+)% of 4,000 test canvases right", card_of(name)["measured on this file"])[1]) / 100
    assert told > (0.9 if name == "clutter" else 0.75)
    spread = 4 * (told * (1 - told) / count) ** 0.5  # four standard errors; scans are shared besides
    assert share_of_right(name, found.images, found.labels) == pytest.approx(told, abs=spread)


def test_detector_finds_digits():
    net = Network.load("detect_digits")
    right = wrong = 0
    for index in range(8):
        made = scene("test", index)
        boxes = torch.as_tensor(made.boxes, dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        for answer in net.look(Image.fromarray(made.pixels)).answers:
            if answer.probability >= 0.5 and len(boxes):
                overlaps = box_iou(torch.tensor([answer.box]), boxes)[0]
                hit = overlaps.max() > 0.5 and answer.label == str(made.digits[int(overlaps.argmax())])
                right, wrong = right + hit, wrong + (not hit)
    assert right >= 10
    assert right > 3 * wrong


def test_unknown_names_are_told_what_there_is(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file digit; packaged: digits$"):
        locate_checkpoint("digit")
    with pytest.raises(FileNotFoundError, match=rf"no checkpoint file \./x.safetensors; packaged: {', '.join(NAMES)}"):
        locate_checkpoint("./x.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_bytes(b"mine")
    assert locate_checkpoint("digits").read_bytes() == b"mine"


def test_commands_take_names(tmp_path, capsys):
    pairs = compose_pairs("test", 4, seed=0)
    pictures = [Image.fromarray(one[0].numpy()) for one in pairs.images]
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    assert main(["predict", "--checkpoint", "digits", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r".*/\d\.png: (\w+) ([01]\.\d{3})", line).groups() for line in lines]
    best = probabilities(*load_checkpoint("digits"), pairs.images).max(dim=1)
    assert [label for label, _ in found] == [CLASSES[index] for index in best.indices.tolist()]
    assert [float(share) for _, share in found] == pytest.approx(best.values.tolist(), abs=2e-3)
