"""Checkpoints: round trip, and everything that is no checkpoint."""

import json
import os
import random
import struct
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from aaconv import _weights
from aaconv.training.checkpoint import KEY, ModelCard, load_checkpoint, read_weights, save_checkpoint

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
    "pickle": r"is no safetensors checkpoint: it was written by torch.save .* never read here; .* weights_only=True",
    "no card": "holds weights but no description of their network",
    "card is no JSON": "has a damaged description",
    "card is a list": "has a damaged description",
    "card lacks a field": "has a damaged description",
    "card contradicts itself": "has a damaged description: channels, mean, std, classes, ids or edge do not fit",
    "unknown model": "no model 'resnet_900'; nearest:",
    "not finite": "holds weights that are not finite: head.bias",
    "missing weight": r"does not fit its network aa_resnet10s: 1 missing: head\.bias$",
    "other classes": r"2 of another shape: head\.weight \[3, 64\] instead of \[1, 64\], head\.bias \[3\]",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals(tmp_path, kind):
    with pytest.raises(ValueError, match=REFUSALS[kind]):
        load_checkpoint(spoiled(tmp_path, kind))


def test_names_that_are_no_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"net\xff.safetensors")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a checkpoint must have a name in UTF-8, got '.*net\\udcff\.safetensors'"):
        load_checkpoint(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        load_checkpoint(tmp_path)


# What one changed value of the card makes of a file.
CARDS = {
    "no number": ({"mean": ["a", 0.5, 0.5]}, "damaged description: channels, mean, std"),
    "infinite": ({"std": [1e999, 1, 1]}, "damaged description: channels, mean, std"),
    "zero deviation": ({"std": [0, 1, 1]}, "damaged description: channels, mean, std"),
    "classes are no texts": ({"classes": [1, 2, 3]}, "damaged description: channels, mean, std, classes"),
    "huge edge": ({"edge": 10**6}, "damaged description: channels, mean, std, classes, ids or edge"),
    "model is a list": ({"model": [["x"]]}, "damaged description"),
    "options are a list": ({"options": ["position"]}, "describes a network that cannot be built"),
    "unknown option": ({"options": {"depht": 3}}, "describes a network that cannot be built: .*depht"),
    "option of another type": ({"options": {"widths": "wide"}}, "describes a network that cannot be built"),
    "weights elsewhere": (
        {"options": {"checkpoint_path": "x.bin"}},
        "asks for weights of other files .checkpoint_path",
    ),
    "hub elsewhere": ({"options": {"pretrained": True}}, "asks for weights of other files .pretrained"),
    "huge width": ({"options": {"widths": [32, 32, 64, 2**20]}}, "does not fit its network .* of another shape"),
    "more classes": ({"options": {"num_classes": 2**40}}, "damaged description"),
    "huge tables": ({"options": {"img_size": 2**33}}, r"does not fit its network aa_resnet10s: [0-9,]{10,} bytes, of"),
    "endless blocks": (
        {"options": {"widths": [32] * 10**5, "strides": [1] * 10**5, "value_ratios": [0] * 10**5}},
        "cannot be built: it has more than 1280 parameters, the file 70 tensors",
    ),
}


def card_values(**changes):
    return {**asdict(CARD), **changes}


def weights_of_card():
    return dict(CARD.build().state_dict())


@pytest.mark.parametrize("case", CARDS)
def test_cards_of_strangers(tmp_path, case):
    changes, message = CARDS[case]
    path = tmp_path / "a.safetensors"
    save_file(weights_of_card(), path, metadata={KEY: json.dumps(card_values(**changes))})
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(path)
    assert len(str(caught.value)) < 700 + len(str(path))


def test_card_nested_too_deeply(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(weights_of_card(), path, metadata={KEY: "[" * 100_000 + "]" * 100_000})
    with pytest.raises(ValueError, match="has a damaged description: it is nested too deeply"):
        load_checkpoint(path)


def test_nothing_is_allocated_for_a_card_that_does_not_fit(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_file(weights_of_card(), path, metadata={KEY: json.dumps(card_values(classes=["a"] * 5))})
    devices = []
    build = ModelCard.build

    def watched(card):
        devices.append(str(torch.empty(0).device))
        return build(card)

    monkeypatch.setattr(ModelCard, "build", watched)
    with pytest.raises(ValueError, match="of another shape"):
        load_checkpoint(path)
    assert devices == ["meta"]


def test_all_faults_of_names_at_once(tmp_path):
    path = tmp_path / "a.safetensors"
    weights = weights_of_card()
    for name in [name for name in weights if name.startswith("blocks.1.")]:
        weights["x" * 5000 + name] = weights.pop(name).clone()
    weights["stem.0.weight"] = torch.zeros(1)
    weights["head.bias"] = torch.zeros(3, dtype=torch.int64)
    weights["stem.1.num_batches_tracked"] = torch.zeros(())
    save_file(weights, path, metadata={KEY: json.dumps(card_values())})
    with pytest.raises(ValueError, match=r"network aa_resnet10s: \d+ missing: blocks.1.* and \d+ more; ") as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert "unknown: xxx" in text
    assert "1 of another shape: stem.0.weight [1] instead of [32, 3, 3, 3]" in text
    assert "2 of another kind: stem.1.num_batches_tracked F32 instead of torch.int64, head.bias I64 instead" in text
    assert len(text) < 1500


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_files_of_other_dtypes(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    weights = {n: v.to(dtype) if v.is_floating_point() else v for n, v in weights_of_card().items()}
    save_file(weights, path, metadata={KEY: json.dumps(card_values())})
    for name, value in load_checkpoint(path)[0].state_dict().items():
        assert torch.equal(value, weights[name].to(value.dtype)), name
        assert value.dtype in (torch.float32, torch.int64)


def test_number_that_float32_cannot_hold(tmp_path):
    path = tmp_path / "a.safetensors"
    weights = weights_of_card()
    weights["head.bias"] = torch.tensor([1e300, 0, 0], dtype=torch.float64)
    save_file(weights, path, metadata={KEY: json.dumps(card_values())})
    with pytest.raises(ValueError, match=r"weights that are not finite: head.bias"):
        load_checkpoint(path)


def test_tables_of_another_grid(tmp_path):
    path = tmp_path / "a.safetensors"
    model = CARD.build()
    save_checkpoint(path, model, replace(CARD, options={"img_size": 40}))
    loaded, _ = load_checkpoint(path)
    position = "blocks.3.conv1.attention.position"
    assert loaded.get_submodule(position).grid > model.get_submodule(position).grid
    weights = weights_of_card()
    weights[f"{position}.height"] = weights[f"{position}.height"][:-1].clone()
    save_file(weights, path, metadata={KEY: json.dumps(card_values())})
    with pytest.raises(ValueError, match=r"position.height \[14, 20\] instead of \[an odd number, 20\]"):
        load_checkpoint(path)


def test_tied_weights(tmp_path):
    """The format has no shared memory: each gets its own, and loads."""
    path = tmp_path / "a.safetensors"
    model = CARD.build()
    model.blocks[1].conv2.weight = model.blocks[0].conv2.weight
    save_checkpoint(path, model, CARD)
    loaded, _ = load_checkpoint(path)
    assert torch.equal(loaded.blocks[1].conv2.weight, loaded.blocks[0].conv2.weight)


def test_options_of_training_build_without_memory(tmp_path):
    """Networks with parts of timm's, and stochastic depth, whose rates are computed while building."""
    card = replace(CARD, model="aa_wrn10_2", options={"drop_path_rate": 0.2})
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, card.build(), card)
    assert load_checkpoint(path)[1] == card


def test_versions_are_written_down(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, CARD.build(), CARD)
    values = json.loads(read_weights(path)[1])
    assert values["torch_version"] == torch.__version__
    del values["torch_version"]  # as version 0.1.0 wrote it
    save_file(weights_of_card(), path, metadata={KEY: json.dumps(values)})
    assert load_checkpoint(path)[1].torch_version == ""


def header_of(text, data=b"", length=None):
    encoded = text.encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(shape, begin, end, dtype="F32"):
    return f'{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{begin}, {end}]}}'


HEADERS = {
    "overlapping offsets": header_of(f'{{"a": {entry([2], 0, 8)}, "b": {entry([2], 4, 12)}}}', bytes(12)),
    "hole": header_of(f'{{"a": {entry([1], 0, 4)}, "b": {entry([1], 8, 12)}}}', bytes(12)),
    "more than declared": header_of(f'{{"a": {entry([1], 0, 4)}}}', bytes(400)),
    "less than declared": header_of(f'{{"a": {entry([100], 0, 400)}}}', bytes(4)),
    "shape overflow": header_of(f'{{"a": {entry([2**40, 2**40], 0, 4)}}}', bytes(4)),
    "negative shape": header_of(f'{{"a": {entry([-1], 0, 4)}}}', bytes(4)),
    "terabytes": header_of(f'{{"a": {entry([2**40], 0, 2**42)}}}', bytes(4)),
    "duplicate key": header_of(f'{{"a": {entry([1], 0, 4)}, "a": {entry([1], 0, 4)}}}', bytes(4)),
    "unknown dtype": header_of(f'{{"a": {entry([1], 0, 4, "F99")}}}', bytes(4)),
    "offsets the wrong way": header_of(f'{{"a": {entry([1], 4, 0)}}}', bytes(4)),
    "no JSON": header_of("{", bytes(4)),
    "deep JSON": header_of("[" * 100_000, bytes(4)),
    "metadata of numbers": header_of('{"__metadata__": {"aaconv": 3}}'),
    "length of all ones": b"\xff" * 8 + b"{}",
    "length beyond the file": header_of("{}", length=1000),
    "seven bytes": b"\x02\0\0\0\0\0\0",
    "old pickle": b"\x80\x02}q\x00.",
    "archive": b"PK\x03\x04" + bytes(100),
    "noise": random.Random(0).randbytes(1000),
}


@pytest.mark.parametrize("case", HEADERS)
def test_damaged_files(tmp_path, case):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HEADERS[case])
    for read in (load_checkpoint, read_weights):
        with pytest.raises(ValueError, match=r"a.safetensors (is no safetensors checkpoint|holds weights but)"):
            read(path)


def test_limits_of_size(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(10)}, path, metadata={"note": "x" * 10_000})
    monkeypatch.setattr(_weights, "MAX_HEADER", 5_000)
    with pytest.raises(ValueError, match=r"is no checkpoint for us: a header of 10,\d+ bytes, limit 5,000"):
        read_weights(path)
    monkeypatch.setattr(_weights, "MAX_FILE", 4_000)
    with pytest.raises(ValueError, match=r"is no checkpoint for us: 10,\d+ bytes, the limit is 4,000"):
        read_weights(path)


def test_declared_hole_of_gigabytes(tmp_path):
    """A sparse file takes no disk, but its tensors would take the memory."""
    path = tmp_path / "a.safetensors"
    size = 9 * 2**30
    with path.open("wb") as file:
        file.write(header_of(f'{{"a": {entry([size // 4], 0, size)}}}'))
        file.truncate(file.tell() + size)
    with pytest.raises(ValueError, match=r"is no checkpoint for us: 9,\d+,\d+,\d+ bytes, the limit"):
        load_checkpoint(path)


@pytest.mark.hard
def test_changed_bytes(tmp_path):
    """Whatever bytes of a file are changed, cut out or doubled: it loads or is refused by a ValueError."""
    path, draw = tmp_path / "a.safetensors", random.Random(0)
    save_checkpoint(path, CARD.build(), CARD)
    whole, refused = path.read_bytes(), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8))):
            at = draw.randrange(header if draw.random() < 0.8 else len(data))
            cut = draw.choice((0, 1, 20))
            data[at : at + cut] = draw.choice((b"", draw.randbytes(cut), data[at : at + cut] * 2, b"9", b'"'))
        path.write_bytes(bytes(data))
        try:
            load_checkpoint(path)
        except ValueError:
            refused += 1
    assert refused > 200
