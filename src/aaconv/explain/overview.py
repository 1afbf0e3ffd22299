"""What a network's attention does over all images that were looked at: heads, learned positions, contributions.

Letters: n images, C Y X pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure

from aaconv.explain.look import Look, Network
from aaconv.explain.measures import (
    HeadSummary,
    contributions,
    position_logits,
    reach_of,
    summarize_heads,
    without_positions,
)
from aaconv.explain.pictures import plot_contributions, plot_heads, plot_positions
from aaconv.nn import AttentionAugmentedConv2d


@dataclass(frozen=True)
class Overview:
    """Of one network."""

    title: str
    model: str
    images: int
    heads: tuple[HeadSummary, ...]  # means over the images
    figures: dict[str, Figure]  # "heads", "contributions" of a classifier, "positions-LAYER"
    changed: tuple[float, ...]  # by image, how much the likeliest class loses without positions; () of a detector


def overview(network: Network, looks: Sequence[Look]) -> Overview:
    """The measures of one network on what it looked at."""
    heads = _mean_heads(network, looks)
    figures = {"heads": plot_heads(heads)}
    for layer in network.layers:
        if layer in looks[0].layers and looks[0].recording.has_positions(layer):
            position: Any = looks[0].recording.layers[layer].position
            offsets = torch.stack([position_logits(look.recording, layer) for look in looks]).mean(dim=0)
            figures[f"positions-{layer}"] = plot_positions(position.height, position.width, offsets)
    changed: tuple[float, ...] = ()
    if not network.finds_boxes:
        if any(isinstance(module, AttentionAugmentedConv2d) and module.attention for module in network.model.modules()):
            figures["contributions"] = plot_contributions(contributions(network.model, _batch(network, looks)))
        changed = _changes(network, looks)
    return Overview(network.title, network.card.model, len(looks), heads, figures, changed)


def _mean_heads(network: Network, looks: Sequence[Look]) -> tuple[HeadSummary, ...]:
    rows = []
    for layer in looks[0].layers:
        reach = reach_of(network.model, layer)
        for same in zip(*(summarize_heads(look.recording, layer, reach) for look in looks), strict=True):
            means = {name: fmean(getattr(row, name) for row in same) for name in ("distance", "entropy", "inside")}
            rows.append(replace(same[0], **means))
    return tuple(rows)


@torch.no_grad()
def _changes(network: Network, looks: Sequence[Look]) -> tuple[float, ...]:
    images = _batch(network, looks)
    before = network.model(images).softmax(dim=1)
    with without_positions(network.model):
        after = network.model(images).softmax(dim=1)
    best = before.argmax(dim=1, keepdim=True)
    return tuple((before - after).gather(1, best)[:, 0].tolist())


def _batch(network: Network, looks: Sequence[Look]) -> torch.Tensor:
    return network.card.normalize(torch.stack([look.picture for look in looks]))
