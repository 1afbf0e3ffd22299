"""Ten thousand damaged checkpoints: each gives a network that answers, or is refused in a line."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save

from aaconv.training.checkpoint import KEY, ModelCard, load_checkpoint, read_weights
from aaconv.training.predict import probabilities
from tests.untrusted.damage import damaged
from tests.untrusted.documents import STRANGE, strange
from tests.untrusted.guard import fuzz

CARD = ModelCard("aa_resnet10s", ("cat", "dog"), 1, 32, (0.4,), (0.2,), options={"position": "sine"})
WORDS = (
    b'"dtype":"F32"', b'"dtype":"F64"', b'"I64"', b'"BOOL"', b'"F8_E4M3"', b'"shape":[', b"]", b"[0,0]", b"9" * 19,
    b"-1", b"null", b'"data_offsets"', b'"__metadata__"', b"{", b"}", b",", b"\0" * 8, b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\x7f", b"\xff" * 8,
)  # fmt: skip
# What a description may ask of networks that would take much: names, sizes, shares.
LARGE = (
    *STRANGE, "aa_resnet152", "aa_wide_resnet28_10", "aa_retinanet_resnet10_fpn", 8192, 100_000, 10**9, [10**9] * 4,
    {"img_size": 10**6}, {"width": 10**9}, {"num_heads": 10**9}, {"key_ratio": 1e9}, {"depths": [10**6] * 4},
    {"pretrained": True}, {"checkpoint_path": "/etc/passwd"}, {"weights": "DEFAULT"}, {"norm_layer": "os.system"},
)  # fmt: skip


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.hard)])
def test_files(inside, seed, count):
    """Bytes."""
    weights = {"a": torch.randn(3, 4), "b.weight": torch.arange(5), "c": torch.randn(2).half(), "d": torch.zeros(0, 3)}
    whole = save(weights, {KEY: json.dumps(asdict(CARD))})
    good = [whole, save({f"w{i}": torch.randn(300) for i in range(2)})]
    path = inside / "a.safetensors"

    def make(number):
        path.write_bytes(damaged(good, number, words=WORDS, reseal=with_length, seed=seed))

    def read(_):
        found, _ = read_weights(path)
        assert all(value.isfinite().all() for value in found.values() if value.is_floating_point())

    found = fuzz(count, make, read, (ValueError,))
    assert min(found["accepted"], found["ValueError"]) > count / 40


def with_length(content):
    """The header's length as it is, wherever it ends."""
    end = content.rfind(b"}}") + 2
    return (end - 8).to_bytes(8, "little") + content[8:] if end > 8 else content


@pytest.mark.parametrize("count", [100, pytest.param(1500, marks=pytest.mark.hard)])
def test_descriptions(inside, seed, count):
    """What the card says; weights are good. Fewer, for networks are built."""
    path, weights = inside / "a.safetensors", CARD.build().state_dict()
    CARD.build()(torch.zeros(1, 1, 32, 32))  # kernels are compiled and kept before anything is watched
    documents = [json.loads(json.dumps(asdict(CARD)))]

    def make(number):
        card = strange(documents, number, seed, LARGE)
        if isinstance(options := card.get("options"), dict) and number % 3 == 0:
            options |= next((value for value in LARGE[number % len(LARGE) :] if isinstance(value, dict)), {})
        path.write_bytes(save(weights, {KEY: json.dumps(card)}))

    def read(_):
        model, card = load_checkpoint(path)
        shares = probabilities(model, card, torch.zeros(1, card.channels, 32, 32, dtype=torch.uint8))
        assert shares.isfinite().all()
        assert isinstance(f"{card.classes[int(shares.argmax())]}", str)

    found = fuzz(count, make, read, (ValueError,))
    assert min(found["accepted"], found["ValueError"]) > count / 20
