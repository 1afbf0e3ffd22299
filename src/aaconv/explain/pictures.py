"""Pictures of attention on images of any size, of heads, of learned positions and of contributions.

Each function returns a matplotlib figure and shows nothing. A point is (x, y) in pixels of the image; what is marked is
the cell of a layer that it lies in.

Letters: C channels of an image (1 or 3), Y X its height and width in pixels, N heads, Q points, H W attention grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from aaconv.explain.measures import HeadSummary
from aaconv.explain.plots import ATTENDED_COLOUR, QUERY_COLOUR, lay_over, mark, show
from aaconv.explain.record import Recording

Point = tuple[float, float]
WORDS = {"distance": "mean distance, cells", "entropy": "entropy, share of uniform", "inside": "inside the window"}


def cell_of(point: Point, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the cell of a map of ``grid`` that a point of an image of ``size`` (Y, X) lies in.

    Raises:
        ValueError: The point lies outside of the image.
    """
    x, y = point
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise ValueError(f"point must lie in the image of {size[1]}x{size[0]} pixels, got ({x:g}, {y:g})")
    return int(y * grid[0] / size[0]), int(x * grid[1] / size[1])


def maps_from(
    recording: Recording,
    point: Point,
    size: tuple[int, int],
    part: str = "both",
    layers: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """What every head attends to from a point of the first image: [N, H, W] by layer, of ``layers`` or all that ran."""
    found = {}
    for layer in recording.calls if layers is None else layers:
        grid = recording.grid(layer)
        row, column = cell_of(point, size, grid)
        found[layer] = recording.maps(layer, [row * grid[1] + column], part)[0, :, 0].cpu()
    return found


def plot_layers(image: Tensor, maps: Mapping[str, Tensor], point: Point) -> Figure:
    """A row a layer: the image with the point's cell marked, each head's map over it, and the mean of the heads.

    Args:
        image: uint8 [C, Y, X].
        maps: [N, H, W] by layer, as ``maps_from`` gives them.
        point: Where they were asked for.
    """
    columns = 2 + max(len(heads) for heads in maps.values())
    figure, grid = _frames(len(maps), columns, image)
    for axes, (layer, heads) in zip(grid, maps.items(), strict=True):
        axes[0].set_ylabel(layer, fontsize=7)
        shown = [None, *heads, heads.mean(dim=0)]
        titles = ["point", *(f"head {i + 1}" for i in range(len(heads))), "mean"]
        for place, weights, title in zip(axes, shown, titles, strict=False):
            _panel(place, image, weights, point, heads.shape[-2:], title)
        for place in axes[len(shown) :]:
            place.set_axis_off()
    return figure


def plot_points(image: Tensor, maps: Tensor, points: Sequence[Point], columns: int = 4) -> Figure:
    """A panel a point: the map of one head, or the mean of heads, from there.

    Args:
        image: uint8 [C, Y, X].
        maps: [Q, H, W].
        points: Q of them.
        columns: Panels beside each other.
    """
    if len(maps) != len(points):
        raise ValueError(f"points must be as many as maps, got {len(points)} and {len(maps)}")
    columns = min(columns, len(points))
    figure, grid = _frames(-(-len(points) // columns), columns, image)
    places = [place for axes in grid for place in axes]
    for place, weights, point in zip(places, maps, points, strict=False):
        _panel(place, image, weights, point, maps.shape[-2:], f"({point[0]:.0f}, {point[1]:.0f})")
    for place in places[len(points) :]:
        place.set_axis_off()
    return figure


def plot_beside(image: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """Maps of any origin over the image, such as class activation beside attention: [H, W] by title."""
    figure, grid = _frames(1, len(maps), image)
    for place, (title, weights) in zip(grid[0], maps.items(), strict=True):
        _panel(place, image, weights, None, weights.shape[-2:], title)
    return figure


def plot_heads(summaries: Sequence[HeadSummary]) -> Figure:
    """How far, how sharply and how much inside the convolution's window heads look: a line a layer, a dot a head."""
    layers = list(dict.fromkeys(row.layer for row in summaries))
    figure = Figure(figsize=(3.4 * len(WORDS), 0.5 + 0.32 * max(4, len(layers))), layout="constrained")
    for axes, (name, word) in zip(figure.subplots(1, len(WORDS), sharey=True), WORDS.items(), strict=True):
        values = [getattr(row, name) for row in summaries]
        axes.scatter(values, [layers.index(row.layer) for row in summaries], s=22, color=QUERY_COLOUR, edgecolor="0.3")
        axes.set(xlabel=word, xlim=(0, None if name == "distance" else 1.02))
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4)
    figure.axes[0].invert_yaxis()  # the first layer on top; the axis is shared
    return figure


def plot_positions(height: Tensor, width: Tensor, offsets: Tensor) -> Figure:
    """Learned tables [2H-1, K] and [2W-1, K], and for each head what they add to logits by offset, [N, 2H-1, 2W-1]."""
    heads = len(offsets)
    figure = Figure(figsize=(1.9 * (heads + 2), 2.4), layout="constrained")
    panels = figure.subplots(1, heads + 2)
    titles = ["height table", "width table", *(f"head {i + 1}" for i in range(heads))]
    for axes, values, title in zip(panels, [height, width, *offsets], titles, strict=True):
        limit = float(values.detach().abs().max()) or 1.0
        table = title.endswith("table")
        rows, columns = values.shape
        sides = (-0.5, columns - 0.5) if table else (-columns / 2, columns / 2)
        axes.imshow(
            values.detach().cpu().numpy(),
            cmap="PuOr",
            vmin=-limit,
            vmax=limit,
            extent=(*sides, rows / 2, -rows / 2),
            aspect="auto" if table else "equal",
            interpolation="nearest",
        )
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("channel" if table else "columns to the right", fontsize=7)
        axes.set_ylabel("offset" if table else "rows down", fontsize=7)
        axes.tick_params(labelsize=6)
    return figure


def plot_contributions(parts: Mapping[str, tuple[float, float]]) -> Figure:
    """What convolution and attention give to the score, layer by layer, as ``contributions`` measures it."""
    figure = Figure(figsize=(6, 0.8 + 0.3 * len(parts)), layout="constrained")
    axes = figure.subplots()
    places = torch.arange(len(parts)).numpy()
    for shift, (index, said, colour) in zip(
        (-0.2, 0.2), ((0, "convolution", QUERY_COLOUR), (1, "attention", ATTENDED_COLOUR)), strict=True
    ):
        axes.barh(places + shift, [part[index] for part in parts.values()], height=0.38, color=colour, label=said)
    axes.set_yticks(places, list(parts), fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel("gradient x value, summed")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _frames(rows: int, columns: int, image: Tensor) -> tuple[Figure, Any]:
    height, width = image.shape[-2:]
    edge = 1.7
    tall = min(3 * edge, edge * height / width)
    figure = Figure(figsize=(edge * columns + 0.3, (tall + 0.25) * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _panel(
    axes: Any, image: Tensor, weights: Tensor | None, point: Point | None, grid: Sequence[int], title: str
) -> None:
    """The image, ``weights`` over it, and the frame of the point's cell."""
    height, width = image.shape[-2:]
    show(axes, image)
    if weights is not None:
        lay_over(axes, weights, (height, width))
    if point is not None:
        cell = cell_of(point, (height, width), (grid[0], grid[1]))
        mark(axes, cell, height / grid[0], width / grid[1])
    axes.set_title(title, fontsize=8)
