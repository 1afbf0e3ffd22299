"""Figures. Each function returns a matplotlib figure and shows nothing.

Letters: N heads, H W attention grid, E image edge in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

QUERY_COLOUR, ATTENDED_COLOUR = "#56B4E9", "#E69F00"  # told apart by colour-blind readers


def plot_attention(rows: Sequence[tuple[Tensor, Tensor, tuple[int, int], str]], marked: str = "query") -> Figure:
    """What a marked cell attends to, an image a row: the image, then the map of each head over it.

    Args:
        rows: For each image its pixels [E, E], the heads' maps [N, H, W], the query's (row, column) on the
            attention grid, and a caption.
        marked: Title of the first column.
    """
    heads = len(rows[0][1])
    figure = Figure(figsize=(1.7 * (heads + 1), 1.85 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), heads + 1, squeeze=False)
    for axes, (image, maps, query, caption) in zip(grid, rows, strict=True):
        edge = image.shape[-1]
        show(axes[0], image)
        axes[0].set_ylabel(caption, fontsize=8)
        for place, weights in zip(axes[1:], maps, strict=True):
            show(place, image)
            lay_over(place, weights, (edge, edge))
        for place in axes:
            mark(place, query, edge / maps.shape[-2], edge / maps.shape[-1])
    for place, title in zip(grid[0], [marked, *(f"head {i + 1}" for i in range(heads))], strict=True):
        place.set_title(title, fontsize=9)
    return figure


def show(axes: Any, image: Tensor) -> None:
    """An image, uint8 [E, E], [1, Y, X] grey or [3, Y, X] in colour, without ticks."""
    pixels = image.squeeze(0) if image.dim() == 3 and len(image) == 1 else image
    grey = pixels.dim() == 2
    axes.imshow((pixels if grey else pixels.permute(1, 2, 0)).numpy(), cmap="gray" if grey else None, vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])


def lay_over(axes: Any, weights: Tensor, size: tuple[int, int]) -> None:
    """One colour over an image of ``size`` (Y, X), the stronger the larger the weight; the largest is nearly opaque."""
    strength = 0.85 * weights / weights.max().clamp(min=1e-12)
    colour = torch.tensor(to_rgb(ATTENDED_COLOUR)).expand(*weights.shape, 3)
    extent = (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
    axes.imshow(torch.cat([colour, strength[..., None]], dim=-1).numpy(), extent=extent, interpolation="nearest")


def mark(axes: Any, cell: tuple[int, int], height: float, width: float) -> None:
    """A frame around a cell (row, column) of ``height`` x ``width`` pixels."""
    corner = (cell[1] * width - 0.5, cell[0] * height - 0.5)
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=QUERY_COLOUR, linewidth=1.8))
