"""Checkpoints: round trip, and everything that is no checkpoint."""

import json

import pytest
import torch
from safetensors.torch import save_file

from aaconv.training.checkpoint import KEY, ModelCard, load_checkpoint, save_checkpoint

CARD = ModelCard("aa_resnet10s", ("cat", "dog", "한글"), 3, 32, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    model = CARD.build()
    save_checkpoint(path, model, CARD)
    loaded, card = load_checkpoint(path)
    assert card == CARD
    assert not loaded.training
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model.eval()(x))
    assert [entry.name for entry in path.parent.iterdir()] == ["a.safetensors"]


def test_normalize():
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    got = CARD.normalize(images)
    torch.testing.assert_close(got[0, :, 0, 0], torch.tensor([-1.0, -1.5, -2.0]))


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, CARD.build(), CARD)
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aaconv._files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, CARD.build(), CARD)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def spoiled(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    model = CARD.build()
    save_checkpoint(path, model, CARD)
    weights = dict(model.state_dict())
    card = {"model": CARD.model, "classes": list(CARD.classes), "channels": 3, "edge": 32}
    card |= {"mean": CARD.mean, "std": CARD.std}
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("hello, this is no checkpoint")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "giant header":
            path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
        case "pickle":
            torch.save(weights, path)
        case "no card":
            save_file(weights, path)
        case "card is no JSON":
            save_file(weights, path, metadata={KEY: "{"})
        case "card is a list":
            save_file(weights, path, metadata={KEY: "[]"})
        case "card lacks a field":
            save_file(weights, path, metadata={KEY: json.dumps({"model": "aa_resnet10s"})})
        case "card contradicts itself":
            save_file(weights, path, metadata={KEY: json.dumps({**card, "mean": [0.5]})})
        case "unknown model":
            save_file(weights, path, metadata={KEY: json.dumps({**card, "model": "resnet_900"})})
        case "not finite":
            weights["head.bias"] = torch.tensor([0.0, float("nan"), 0.0])
            save_file(weights, path, metadata={KEY: json.dumps(card)})
        case "missing weight":
            del weights["head.bias"]
            save_file(weights, path, metadata={KEY: json.dumps(card)})
        case "other classes":
            save_file(weights, path, metadata={KEY: json.dumps({**card, "classes": ["cat"]})})
    return path


REFUSALS = {
    "empty": "is no safetensors checkpoint",
    "text": "is no safetensors checkpoint",
    "truncated": "is no safetensors checkpoint",
    "giant header": "is no safetensors checkpoint",
    "pickle": "is no safetensors checkpoint",
    "no card": "holds weights but no description of their network",
    "card is no JSON": "has a damaged description",
    "card is a list": "has a damaged description",
    "card lacks a field": "has a damaged description",
    "card contradicts itself": "has a damaged description: channels, mean, std, classes, ids or edge do not fit",
    "unknown model": "no model 'resnet_900'; nearest:",
    "not finite": "holds weights that are not finite: head.bias",
    "missing weight": r"does not fit its network aa_resnet10s: .*Missing key.*head\.bias",
    "other classes": r"does not fit its network aa_resnet10s: .*size mismatch for head\.weight",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals(tmp_path, kind):
    with pytest.raises(ValueError, match=REFUSALS[kind]):
        load_checkpoint(spoiled(tmp_path, kind))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        load_checkpoint(tmp_path)
