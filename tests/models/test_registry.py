"""The networks: every row builds, runs and trains; sizes are what the table says."""

import pytest
import torch

from aaconv import AttentionAugmentedConv2d, create_model, list_models
from aaconv.models import registry
from aaconv.models.complexity import measure_complexity
from aaconv.models.small import SPECS


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize("size", [(32, 32), (28, 28), (33, 17)], ids=str)
def test_every_network_trains(name, size):
    model = create_model(name, num_classes=5, in_chans=1)
    logits = model(torch.randn(2, 1, *size))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_pair_has_equal_parameters():
    plain, augmented = (
        sum(p.numel() for p in create_model(name, num_classes=2, in_chans=1).parameters())
        for name in ("resnet10s", "aa_resnet10s")
    )
    assert abs(plain - augmented) / augmented < 0.03
    layers = [m for m in create_model("aa_resnet10s").modules() if isinstance(m, AttentionAugmentedConv2d)]
    assert [layer.attention is not None for layer in layers] == [False, False, True, True]


@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", "none"])
def test_cells_of_a_row_can_be_changed(position):
    model = create_model("aa_resnet10s", num_classes=2, position=position, img_size=64)
    tables = [name for name, _ in model.named_parameters() if "position" in name]
    assert len(tables) == (4 if position == "relative" else 0)
    if tables:
        assert model.blocks[3].conv1.attention.position.grid == (16, 16)


def test_names():
    assert list_models("aa_*10s") == ["aa_resnet10s"]
    with pytest.raises(ValueError, match="no model 'aa_resnet10'; nearest: aa_resnet10s, "):
        create_model("aa_resnet10")
    with pytest.raises(TypeError, match="heads"):
        create_model("aa_resnet10s", heads=4)
    with pytest.raises(ValueError, match="num_classes must be at least 0, got num_classes=-1"):
        create_model("aa_resnet10s", num_classes=-1)


def test_packages_that_bring_more_networks_are_named(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match="; without timm and torchvision and PIL only some are there: pip install 'aaconv"
    ):
        create_model("aa_resnet5O")


def test_complexity_of_a_convolution():
    layer = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    got = measure_complexity(layer, 3, 10)
    assert got.parameters == 3 * 8 * 9
    assert got.flops == 2 * 10 * 10 * 3 * 8 * 9


def test_complexity_of_attention_is_the_formula():
    """1x1 convolutions, q k^T, q with a table's row for each key row and column, weights v: two a multiply-add."""
    layer = AttentionAugmentedConv2d(3, 8, 3, key_channels=4, value_channels=8, num_heads=2, grid=(5, 5), bias=False)
    cells, keys, values = 25, 2, 4
    products = cells * cells * keys + cells * (5 + 5) * keys + cells * cells * values
    macs = cells * 3 * 16 + cells * 8 * 8 + 2 * products
    assert measure_complexity(layer, 3, 5).flops == 2 * macs
