"""What attention does, in numbers: how far it looks, how sharply, how much beyond the convolution's window, what its
channels and positions are worth.

Letters: B batch, N heads, Q queries, H W attention grid, L = H*W, n images, c classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aaconv.explain.record import Recording
from aaconv.nn import Attention2d, AttentionAugmentedConv2d
from aaconv.nn.position import CoordPosition2d, NoPosition2d

MOST = 2048  # queries of a map that are summed up
CHUNK = 64  # queries at a time, so that memory grows with L and not with L * L


@dataclass(frozen=True)
class HeadSummary:
    """Means over images and queries of one head of a layer."""

    layer: str
    head: int
    distance: float  # cells between query and key
    entropy: float  # share of that of uniform weights, 0 (one cell) to 1
    inside: float  # share of the weights inside the convolution's window


def distances(maps: Tensor, queries: Tensor) -> Tensor:
    """Mean Euclidean distance in cells between queries [Q] and what they attend to: [B, N, Q, H, W] -> [B, N, Q]."""
    rows, columns = _offsets(maps, queries)
    return (maps * torch.hypot(rows[:, :, None].to(maps), columns[:, None, :].to(maps))).sum(dim=(-2, -1))


def entropies(maps: Tensor) -> Tensor:
    """Entropy of the weights as a share of log L, the largest: [B, N, Q, H, W] -> [B, N, Q]; 0 for a single cell."""
    cells = maps.shape[-2] * maps.shape[-1]
    return torch.special.entr(maps).sum(dim=(-2, -1)) / math.log(max(cells, 2))


def inside_shares(maps: Tensor, queries: Tensor, reach: tuple[int, int]) -> Tensor:
    """Share of the weights at most ``reach`` (rows, columns) away from queries [Q]: [B, N, Q, H, W] -> [B, N, Q]."""
    rows, columns = _offsets(maps, queries)
    near = (rows.abs() <= reach[0])[:, :, None] & (columns.abs() <= reach[1])[:, None, :]
    return (maps * near).sum(dim=(-2, -1))


def reach_of(model: nn.Module, layer: str) -> tuple[int, int]:
    """How many cells of the attention map the window of the convolution beside it reaches to each side, rounded up.

    (1, 1) for attention that stands beside no convolution.
    """
    outer = model.get_submodule(layer.rpartition(".")[0])
    if not isinstance(outer, AttentionAugmentedConv2d) or outer.conv is None or outer.attention is None:
        return 1, 1
    conv, attention = outer.conv, outer.attention
    sides = zip(conv.kernel_size, conv.dilation, attention.stride, attention.pool, strict=True)
    rows, columns = (math.ceil(size // 2 * gap / (step * pool)) for size, gap, step, pool in sides)
    return rows, columns


def summarize_heads(recording: Recording, layer: str, reach: tuple[int, int] = (1, 1)) -> list[HeadSummary]:
    """Every head of a layer, over all images of its last run and all queries, or ``MOST`` evenly spaced ones.

    Args:
        recording: Of a network that has run.
        layer: One of its layers.
        reach: Of the convolution's window to each side, in cells of the attention map: (1, 1) for 3x3. Where attention
            is pooled a cell is several of the convolution's.
    """
    height, width = recording.grid(layer)
    sums, count = torch.zeros(0), 0
    for queries in torch.arange(0, height * width, -(-height * width // MOST)).split(CHUNK):
        maps = recording.maps(layer, queries).cpu()
        parts = torch.stack([distances(maps, queries), entropies(maps), inside_shares(maps, queries, reach)])
        found = parts.double().sum(dim=(1, 3))  # [3, N]
        sums, count = found if not count else sums + found, count + parts.shape[1] * parts.shape[3]
    return [HeadSummary(layer, head, *values) for head, values in enumerate((sums / count).T.tolist())]


@torch.no_grad()
def position_logits(recording: Recording, layer: str) -> Tensor:
    """What relative positions add to the logit of a key, by its offset, mean over images and queries: [N, 2H-1, 2W-1].

    Row and column t are the offsets t - (H-1) and t - (W-1), key minus query.

    Raises:
        ValueError: The layer has no relative positions.
    """
    p = recording.layers[layer].project(recording.last(layer).input.float())
    if p.rel_h is None or p.rel_w is None:
        raise ValueError(f"layer {layer!r} has no relative positions")
    query = p.q.float().mean(dim=(0, 2)) * p.q.shape[-1] ** -0.5  # [N, K]; the terms are linear in it
    height, width = query @ p.rel_h.float().T, query @ p.rel_w.float().T
    return height[:, :, None] + width[:, None, :]


def contributions(model: nn.Module, images: Tensor, classes: Tensor | None = None) -> dict[str, tuple[float, float]]:
    """What the convolution's and attention's channels of each augmented layer give to the classes' scores.

    Gradient times value, summed over channels and cells, mean over images: how much the score would fall, to first
    order, if the channels were zero.

    Args:
        model: A classifier in evaluation mode.
        images: As it takes them, [n, C, H, W].
        classes: Whose scores, [n]; None takes the largest ones.

    Returns:
        By layer the parts of convolution and attention.

    Raises:
        ValueError: The model has no augmented layer.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, AttentionAugmentedConv2d) and m.attention}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no augmented layer")
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            outputs[name] = output if output.requires_grad else output.requires_grad_()
            return outputs[name]

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            logits = model(images)
            chosen = logits.argmax(dim=1) if classes is None else classes
            score = logits.gather(1, chosen[:, None]).sum()
            gradients = torch.autograd.grad(score, list(outputs.values()))
    finally:
        for handle in handles:
            handle.remove()
    parts = {}
    for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
        given = (output.detach() * gradient).sum(dim=(2, 3)).mean(dim=0)  # [channels]
        cut = layers[name].out_channels - layers[name].value_channels
        parts[name] = (float(given[:cut].sum()), float(given[cut:].sum()))
    return parts


@contextmanager
def without_positions(model: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block attention is blind to where a value stands, whatever the encoding of positions."""
    layers = [module for module in model.modules() if isinstance(module, Attention2d)]
    before = [layer.position for layer in layers]
    try:
        for layer in layers:
            layer.position = _Blank() if isinstance(layer.position, CoordPosition2d) else NoPosition2d()
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for layer, position in zip(layers, before, strict=True):
            layer.position = position


class _Blank(CoordPosition2d):
    """Zeros in place of coordinates."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), self.extra_channels, *x.shape[2:])], dim=1)


def _offsets(maps: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Key minus query in rows [Q, H] and columns [Q, W]."""
    height, width = maps.shape[-2:]
    at = torch.as_tensor(queries, device=maps.device)[:, None]
    rows, columns = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    return rows - at // width, columns - at % width
