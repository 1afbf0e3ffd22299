"""Measures of attention against plain loops and closed forms."""

import math

import pytest
import torch
from torch import nn

from aaconv import AttentionAugmentedConv2d, create_model
from aaconv.explain import measures, record
from aaconv.explain.measures import (
    contributions,
    distances,
    entropies,
    inside_shares,
    summarize_heads,
    without_positions,
)

GRID = (4, 7)
QUERIES = torch.tensor([0, 9, 27])


@pytest.fixture
def maps():
    return torch.randn(2, 3, len(QUERIES), *GRID).flatten(-2).softmax(-1).unflatten(-1, GRID)


def test_distances_entropies_and_shares_are_what_loops_give(maps):
    wanted = torch.zeros(3, 2, 3, len(QUERIES))
    for b, n, q, y, x in torch.cartesian_prod(*map(torch.arange, maps.shape)).tolist():
        row, column = divmod(int(QUERIES[q]), GRID[1])
        weight = float(maps[b, n, q, y, x])
        near = abs(y - row) <= 1 and abs(x - column) <= 2
        parts = weight * math.dist((y, x), (row, column)), -weight * math.log(weight), weight * near
        wanted[:, b, n, q] += torch.tensor(parts)
    torch.testing.assert_close(distances(maps, QUERIES), wanted[0])
    torch.testing.assert_close(entropies(maps), wanted[1] / math.log(28))
    torch.testing.assert_close(inside_shares(maps, QUERIES, (1, 2)), wanted[2])


def test_extremes():
    uniform = torch.full((1, 1, 1, 5, 5), 1 / 25)
    sharp = torch.zeros(1, 1, 1, 5, 5)
    sharp[..., 2, 2] = 1
    assert entropies(uniform).item() == pytest.approx(1)
    assert entropies(sharp).item() == 0
    assert distances(sharp, torch.tensor([12])).item() == 0
    assert inside_shares(sharp, torch.tensor([12]), (0, 0)).item() == 1
    assert entropies(torch.ones(1, 1, 1, 1, 1)).item() == 0


def test_summary_is_the_mean_over_images_and_queries(monkeypatch):
    model = create_model("aa_resnet10s", num_classes=2, in_chans=1).eval()
    with record(model) as recording:
        model(torch.rand(3, 1, 32, 24))
    name = "blocks.3.conv1.attention"
    queries = torch.arange(48)
    maps = recording.maps(name, queries)
    monkeypatch.setattr(measures, "CHUNK", 7)  # 48 are no multiple
    heads = summarize_heads(recording, name)
    assert [(row.layer, row.head) for row in heads] == [(name, head) for head in range(4)]
    for row in heads:
        assert row.distance == pytest.approx(distances(maps, queries)[:, row.head].mean().item(), rel=1e-5)
        assert row.entropy == pytest.approx(entropies(maps)[:, row.head].mean().item(), rel=1e-5)
        assert row.inside == pytest.approx(inside_shares(maps, queries, (1, 1))[:, row.head].mean().item(), rel=1e-5)


class Linear(nn.Module):
    """A score that is linear in what the augmented layer gives."""

    def __init__(self):
        super().__init__()
        self.layer = AttentionAugmentedConv2d(3, 8, 3, key_channels=4, value_channels=2, num_heads=2, grid=(6, 5))
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x):
        return self.head(self.layer(x).mean(dim=(2, 3)))


def test_contributions_sum_to_a_linear_score():
    model, images, classes = Linear(), torch.randn(5, 3, 6, 5), torch.tensor([0, 3, 1, 1, 2])
    with torch.no_grad():
        y = model.layer(images).mean(dim=(2, 3))
        weights = model.head.weight[classes]
        wanted = ((y * weights)[:, :6].sum(1).mean().item(), (y * weights)[:, 6:].sum(1).mean().item())
        best = model(images).max(dim=1).values.mean().item()
    assert contributions(model, images, classes)["layer"] == pytest.approx(wanted, rel=1e-4)
    assert sum(contributions(model, images)["layer"]) == pytest.approx(best, rel=1e-4)
    assert all(p.grad is None for p in model.parameters())
    frozen = model.requires_grad_(False)
    assert contributions(frozen, images, classes)["layer"] == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(ValueError, match="Sequential has no augmented layer"):
        contributions(nn.Sequential(nn.Linear(2, 2)), torch.rand(1, 2))


@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", "none"])
def test_without_positions_attention_is_blind_to_them(position):
    """Shuffled cells give shuffled results."""
    layer = AttentionAugmentedConv2d(
        4, 6, 1, key_channels=8, value_channels=6, num_heads=2, position=position, grid=(5, 5)
    ).eval()
    x, order = torch.randn(1, 4, 5, 5), torch.randperm(25)

    def shuffled(t):
        return t.flatten(2)[:, :, order].unflatten(2, (5, 5))

    with torch.no_grad():
        before = layer(x)
        with without_positions(layer):
            torch.testing.assert_close(layer(shuffled(x)), shuffled(layer(x)))
        assert torch.equal(layer(x), before)
        assert torch.allclose(layer(shuffled(x)), shuffled(before), atol=1e-5) == (position == "none")
