"""Folders of the hub: written whole, read with the checks of checkpoints, never a pickle, never the network."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from aaconv import AttentionAugmentedConv2d
from aaconv.training.checkpoint import ModelCard, save_checkpoint

hub = pytest.importorskip("aaconv.hub")

OPTIONS = {"widths": [8, 8, 8, 8], "key_channels": 8, "num_heads": 2}
CARD = ModelCard("aa_resnet10s", ("cat", "dog|bird", "한글"), 3, 32, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2), options=OPTIONS)
LAYERS = {
    "relative": {"key_channels": 8, "value_channels": 4, "num_heads": 2, "grid": (5, 7)},
    "all attention": {"key_channels": 8, "value_channels": 10, "num_heads": 2, "grid": (5, 7), "bias": False},
    "plain": {"key_channels": 8, "value_channels": 0, "num_heads": 2},
    "strided": {"key_channels": 4, "value_channels": 2, "num_heads": 2, "stride": 2, "position": "sine", "pool": 2},
    "half": {"key_channels": 8, "value_channels": 4, "num_heads": 2, "position": "none", "dtype": torch.bfloat16},
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)


@pytest.fixture
def folder(tmp_path):
    hub.save_pretrained(CARD.build(), tmp_path / "net", card=CARD)
    return tmp_path / "net"


def test_network(tmp_path):
    model, x = CARD.build().eval(), torch.randn(2, 3, 32, 32)
    assert hub.save_pretrained(model, tmp_path / "a" / "b", card=CARD) is None
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = hub.from_pretrained(tmp_path / "a" / "b")
    assert loaded.card == CARD
    assert not loaded.model.training
    assert torch.equal(loaded(x), model(x))
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(hub.Pretrained.from_pretrained(str(tmp_path / "again"))(x), model(x))


def test_checkpoints_and_detectors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, CARD.build(), CARD)
    hub.save_pretrained(path, tmp_path / "net")
    assert hub.from_pretrained(tmp_path / "net").card == CARD
    hub.save_pretrained("detect_digits", tmp_path / "boxes")  # a packaged one
    loaded = hub.from_pretrained(tmp_path / "boxes")
    assert loaded.card.model == "aa_retinanet_resnet10_fpn"
    assert len(loaded([torch.rand(3, 40, 60)])[0]["boxes"]) >= 0
    assert "pipeline_tag: object-detection" in (tmp_path / "boxes" / "README.md").read_text()


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_layers(tmp_path, options):
    layer = AttentionAugmentedConv2d(4, 10, 3, **options, impl="reference")
    x = torch.randn(2, 4, 5, 7, dtype=options.get("dtype"))
    hub.save_pretrained(layer, tmp_path)
    loaded = hub.from_pretrained(tmp_path).model
    for part in (loaded.attention,) if loaded.attention else ():
        part.impl = "reference"
    assert torch.equal(loaded(x), layer(x))
    assert str(loaded) == str(layer)


def test_layer_without_tables_yet(tmp_path):
    layer = AttentionAugmentedConv2d(4, 10, 3, key_channels=8, value_channels=4, num_heads=2)
    with pytest.raises(ValueError, match=r"must have position tables of a size: pass grid"):
        hub.save_pretrained(layer, tmp_path)


def test_page_tells_what_is_true(folder):
    page = (folder / "README.md").read_text(encoding="utf-8")
    count = sum(parameter.numel() for parameter in CARD.build().parameters())
    for text in ("# aa_resnet10s, 3 classes", f"| Parameters | {count:,} |", "cat, dog/bird, 한글", "not written down"):
        assert text in page
    assert f"aaconv {CARD.version}, torch {torch.__version__}" in page
    assert "pipeline_tag: image-classification" in page
    hub.save_pretrained(replace(CARD, classes=("a",)).build(), folder, card=replace(CARD, classes=("a",)))
    assert "1 classes" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("my own")
    hub.save_pretrained(CARD.build(), folder, card=CARD)
    assert (folder / "README.md").read_text() == "my own"
    assert hub.from_pretrained(folder).card == CARD


def test_failed_write_leaves_the_old_files(folder, monkeypatch):
    (folder / "notes.txt").write_text("stays")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aaconv._files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        hub.save_pretrained(CARD.build(), folder, card=CARD)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_push(monkeypatch, tmp_path):
    uploads = []

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, private, exist_ok):
            uploads.append((repo_id, private, self.token))
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **options):
            uploads.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            uploads.append(hub.from_pretrained(folder_path).card)
            return "address of the commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    files = ["README.md", "config.json", "model.safetensors"]
    assert hub.push_to_hub(CARD.build(), "me/net", card=CARD, private=True, token="t") == "address of the commit"
    assert uploads == [("me/net", True, "t"), ("me/net", files), CARD]
    uploads.clear()
    hub.save_pretrained(CARD.build(), tmp_path / "net", card=CARD, push_to_hub=True)
    assert uploads == [("net", None, None), ("net", files), CARD]
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == files


def test_fetched(folder, monkeypatch):
    asked = []

    def fetch(repo_id, name, **options):
        asked.append((repo_id, name, options))
        return str(folder / name)

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    assert hub.from_pretrained("me/net", revision="v1").card == CARD
    wanted = [("me/net", name, {"revision": "v1"}) for name in ("model.safetensors", "config.json")]
    assert asked == wanted


def spoiled(folder, case):
    weights, config = folder / "model.safetensors", folder / "config.json"
    tensors = {name: value.clone() for name, value in load_file(weights).items()}  # no longer mapped
    match case:
        case "no weights":
            weights.rename(folder / "pytorch_model.bin")
        case "pickle":
            torch.save(tensors, weights)
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-50])
        case "not finite":
            tensors["head.bias"][0] = float("nan")
            save_file(tensors, weights)
        case "missing":
            del tensors["head.bias"]
            save_file(tensors, weights)
        case "config differs":
            config.write_text(json.dumps(asdict(replace(CARD, classes=("a", "b", "c")))))
        case "config asks for files":
            save_file(tensors, weights)
            config.write_text(json.dumps(asdict(replace(CARD, options={"checkpoint_path": "x"}))))
        case "config is no JSON":
            config.write_text("{")
        case "config is a list":
            config.write_text("[]")
        case "config is deep":
            config.write_text("[" * 10**5)
        case "config is no text":
            config.write_bytes(b"\xff\xfe\x00")
        case "config is huge":
            config.write_bytes(b" " * 2**21)
        case "no description":
            save_file(tensors, weights)
            config.unlink()
        case "unknown layer":
            config.write_text(json.dumps({"layer": "os.system", "options": {}}))
        case "layer cannot be built":
            save_file(tensors, weights)
            config.write_text(json.dumps({"layer": "AttentionAugmentedConv2d", "options": {"x": 1}}))
        case "layer far larger":
            options = {"in_channels": 2**20, "out_channels": 2**20, "kernel_size": 3, "key_channels": 8}
            save_file({"conv.weight": torch.zeros(1)}, weights)
            config.write_text(
                json.dumps({"layer": "AttentionAugmentedConv2d", "options": {**options, "value_channels": 0}})
            )


REFUSALS = {
    "no weights": (
        FileNotFoundError,
        r"no model.safetensors in .*; pytorch_model.bin is a pickle, which is never read",
    ),
    "pickle": (ValueError, r"is no safetensors checkpoint: it was written by torch.save"),
    "truncated": (ValueError, r"is no safetensors checkpoint"),
    "not finite": (ValueError, r"weights that are not finite: head.bias"),
    "missing": (ValueError, r"does not fit its network aa_resnet10s: 1 missing: head.bias"),
    "config differs": (ValueError, r"contradicts itself: config.json describes another network"),
    "config asks for files": (ValueError, r"asks for weights of other files .checkpoint_path"),
    "config is no JSON": (ValueError, r"config.json has a damaged description"),
    "config is a list": (ValueError, r"config.json has a damaged description: it must be a JSON object, got list"),
    "config is deep": (ValueError, r"config.json has a damaged description"),
    "config is no text": (ValueError, r"config.json is no UTF-8 text"),
    "config is huge": (ValueError, r"config.json must be at most 1,048,576 bytes, got 2,097,152"),
    "no description": (ValueError, r"holds weights but no description of what they belong to"),
    "unknown layer": (ValueError, r"layer must be 'AttentionAugmentedConv2d', options a dictionary"),
    "layer cannot be built": (ValueError, r"describes a layer that cannot be built"),
    "layer far larger": (ValueError, r"1 of another shape: conv.weight \[1\] instead of \[1048576, 1048576, 3, 3\]"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(folder, case):
    spoiled(folder, case)
    error, message = REFUSALS[case]
    with pytest.raises(error, match=message):
        hub.from_pretrained(folder)


def test_weights_alone_or_with_their_configuration(folder):
    (folder / "config.json").unlink()
    assert hub.from_pretrained(folder).card == CARD
    hub.save_pretrained(CARD.build(), folder, card=CARD)
    plain = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(plain, folder / "model.safetensors")  # by whom drops the metadata
    assert hub.from_pretrained(folder).card == CARD


def test_wrong_arguments(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no folder me/none, nor a repository .*ConnectionError: no network"
    ) as e:
        hub.from_pretrained("me/none")
    assert e.value.__suppress_context__
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file; give its folder"):
        hub.from_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="save_directory must be a folder, got a file"):
        hub.save_pretrained(CARD.build(), tmp_path / "file", card=CARD)
    with pytest.raises(ValueError, match="card must be the ModelCard of a network"):
        hub.save_pretrained(CARD.build(), tmp_path / "net")
    with pytest.raises(TypeError, match="model must be a network, a layer or a checkpoint's path, got int"):
        hub.save_pretrained(3, tmp_path / "net")
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        hub.save_pretrained("none", tmp_path / "net")
