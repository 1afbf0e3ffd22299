"""A network's overview is the mean of what is measured on each image."""

import pytest
import torch
from torch import nn

from aaconv import AttentionAugmentedConv2d
from aaconv.explain import measures
from aaconv.explain.measures import reach_of, summarize_heads
from aaconv.explain.overview import overview
from aaconv.nn import Attention2d

from .networks import classifier_card, detector_card, image, network


def test_heads_are_means_over_images():
    net = network()
    looks = [net.look(image(seed=seed)) for seed in range(3)]
    found = overview(net, looks)
    each = [[row for layer in look.layers for row in summarize_heads(look.recording, layer)] for look in looks]
    assert [(row.layer, row.head) for row in found.heads] == [(row.layer, row.head) for row in each[0]]
    for index, row in enumerate(found.heads):
        for name in ("distance", "entropy", "inside"):
            mean = sum(getattr(rows[index], name) for rows in each) / 3
            assert getattr(row, name) == pytest.approx(mean)
    assert (found.title, found.model, found.images) == ("net", "aa_resnet10s", 3)
    layers = [f"positions-blocks.{index}.conv1.attention" for index in (2, 3)]
    assert sorted(found.figures) == sorted(["heads", "contributions", *layers])


def test_what_positions_are_worth():
    net = network()
    for module in net.model.modules():
        if isinstance(module, Attention2d):
            nn.init.normal_(module.position.height, std=3)
    looks = [net.look(image(seed=seed)) for seed in range(2)]
    changed = overview(net, looks).changed
    assert len(changed) == 2
    assert all(changed)
    for module in net.model.modules():
        if isinstance(module, Attention2d):
            nn.init.zeros_(module.position.height)
            nn.init.zeros_(module.position.width)
    assert overview(net, [net.look(image(seed=seed)) for seed in range(2)]).changed == pytest.approx((0, 0), abs=1e-6)


def test_detectors_and_other_encodings():
    detector = network(detector_card())
    found = overview(detector, [detector.look(image())])
    assert found.changed == ()
    assert "contributions" not in found.figures
    sine = network(classifier_card(options={"position": "sine"}))
    assert sorted(overview(sine, [sine.look(image())]).figures) == ["contributions", "heads"]


@pytest.mark.parametrize(
    "options, reach",
    [
        ({"kernel_size": 3}, (1, 1)),
        ({"kernel_size": (1, 7)}, (0, 3)),
        ({"kernel_size": 3, "dilation": 3}, (3, 3)),
        ({"kernel_size": 5, "stride": 2}, (1, 1)),
        ({"kernel_size": 3, "pool": 2}, (1, 1)),
        ({"kernel_size": 7, "pool": 2}, (2, 2)),
    ],
)
def test_reach_of_the_window_in_cells_of_the_attention_map(options, reach):
    layer = AttentionAugmentedConv2d(8, 16, key_channels=8, value_channels=8, num_heads=2, grid=(4, 4), **options)
    assert reach_of(nn.ModuleDict({"a": layer}), "a.attention") == reach


def test_attention_beside_no_convolution():
    assert reach_of(nn.Sequential(Attention2d(8, 8, 8, 2, grid=(4, 4))), "0") == (1, 1)


def test_large_maps_are_sampled_evenly(monkeypatch):
    look = network().look(image())
    whole = summarize_heads(look.recording, look.layers[0])
    monkeypatch.setattr(measures, "MOST", 16)
    some = summarize_heads(look.recording, look.layers[0])
    maps = look.recording.maps(look.layers[0], torch.arange(0, 64, 4))
    expected = measures.entropies(maps).mean(dim=(0, 2))
    assert [row.entropy for row in some] == pytest.approx(expected.tolist(), rel=1e-5)
    assert [row.entropy for row in some] != [row.entropy for row in whole]
