"""Checkpoints of past versions load and give what they gave; no parameter changes its name or shape."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aaconv import AttentionAugmentedConv2d, list_models
from aaconv.training.checkpoint import load_checkpoint

HOME = Path(__file__).parent / "checkpoints"
SPEC = importlib.util.spec_from_file_location("make_old_checkpoints", HOME / "make.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)
VERSIONS = sorted(path for path in HOME.iterdir() if path.is_dir() and path.name[0].isdigit())
LINES = dict(line.split(" ", 1) for line in make.KEYS.read_text(encoding="utf-8").splitlines())
LARGE = [name for name in LINES if any(part in name for part in ("101", "152", "50_", "mnasnet", "28_10", "net50"))]


def assert_as_then(folder, name, got):
    then = torch.from_numpy(np.load(folder / "outputs.npz")[name])
    torch.testing.assert_close(got, then, rtol=1e-5, atol=1e-5 * then.abs().max().item())


def test_there_are_some():
    assert VERSIONS[0].name == "0.1.0"


@pytest.mark.parametrize("name", ["small", "excited", *make.PACKAGED])
@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_networks(folder, name):
    model, card = load_checkpoint(name if name in make.PACKAGED else folder / f"{name}.safetensors", detector=None)
    assert_as_then(folder, name, make.outputs(model, card.channels))


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_layer(folder):
    layer = AttentionAugmentedConv2d(4, 10, 3, **make.LAYER)
    layer.load_state_dict(load_file(folder / "layer.safetensors"))
    assert_as_then(folder, "layer", layer(make.waves(2, 4, 5, 7)).detach())


def test_names_of_the_layer():
    """The contract of checkpoints, in full."""
    state = AttentionAugmentedConv2d(4, 10, 3, **make.LAYER).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == {
        "conv.weight": [4, 4, 3, 3],
        "conv.bias": [4],
        "attention.qkv.weight": [22, 4, 1, 1],
        "attention.qkv.bias": [22],
        "attention.out.weight": [6, 6, 1, 1],
        "attention.out.bias": [6],
        "attention.position.height": [9, 4],
        "attention.position.width": [13, 4],
    }


def test_every_network_has_its_line():
    assert list(LINES) == list_models(), "python tests/checkpoints/make.py keys"


@pytest.mark.parametrize("name", [name for name in LINES if name not in LARGE] + ["aa_resnet50", "aa_mnasnet_100"])
def test_names_of_networks(name):
    assert make.summary(name) == f"{name} {LINES[name]}"


@pytest.mark.hard
@pytest.mark.parametrize("name", LARGE)
def test_names_of_large_networks(name):
    assert make.summary(name) == f"{name} {LINES[name]}"
