"""Pictures and attention maps small enough to be sent to, or kept in, a page.

A weight is a byte: its share of the largest weight of its map, which is kept as a float32, so that it is off by at most
1/510 of that. ``viewer.js`` reads what is written here.

Letters: N heads, Q queries, H W attention grid, h w the coarser grid that is kept, C Y X an image.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from aaconv.explain.look import Look
from aaconv.explain.measures import CHUNK

FINEST = 32  # cells an edge: what is kept of a finer map is coarser
LOSSLESS = 100_000  # bytes: a larger picture is kept as JPEG
Packed = dict[str, Any]


def pack(maps: Tensor) -> Packed:
    """Maps [..., H, W] as base64 of bytes, and of the largest weight of each as little-endian float32."""
    peaks = maps.amax(dim=(-2, -1)).float()
    shares = maps.float() / peaks.clamp(min=1e-30)[..., None, None]
    return {"maps": _base64(shares.mul(255).round().to(torch.uint8)), "peaks": _base64(peaks)}


def describe(look: Look, edge: int | None = None) -> Packed:
    """A look for a page, without maps: title, picture, answers, and the layers with their grids.

    Args:
        look: What to describe.
        edge: The most cells an edge that maps are kept with; None keeps all.
    """
    return {
        "title": look.network,
        "size": list(look.size),
        "picture": picture_address(look.picture),
        "answers": [[answer.label, answer.probability, list(answer.box)] for answer in look.answers],
        "layers": [_layer(look, name, edge) for name in look.layers],
        "fixed": [],
    }


def pack_from(look: Look, point: tuple[float, float], part: str = "both") -> list[Packed]:
    """What every head of every layer attends to from a point, in shares (x, y) of the picture: maps [N, H, W] each.

    A layer without that part of the logits gives None.
    """
    found: list[Any] = []
    for name in look.layers:
        height, width = look.recording.grid(name)
        row, column = (
            min(int(share * edge), edge - 1) for share, edge in zip(point[::-1], (height, width), strict=True)
        )
        if part == "position" and not look.recording.has_positions(name):
            found.append(None)
            continue
        found.append(pack(look.recording.maps(name, [row * width + column], part)[0, :, 0]))
    return found


def pack_all(look: Look, layer: str, edge: int, part: str = "both") -> Packed:
    """A layer's maps from every cell of the grid that is kept: [N, h*w, h, w].

    A coarse cell's weights are the sum over its cells; the query is the cell in its middle.
    """
    height, width = look.recording.grid(layer)
    block = block_of((height, width), edge)
    rows, columns = (torch.arange(size)[::block] + block // 2 for size in (height, width))
    rows, columns = rows.clamp(max=height - 1), columns.clamp(max=width - 1)
    queries = (rows[:, None] * width + columns).flatten()
    parts = []
    for chunk in queries.split(CHUNK):
        maps = look.recording.maps(layer, chunk, part)[0].cpu().float()
        parts.append(avg_pool2d(maps, block, ceil_mode=True, divisor_override=1))
    return pack(torch.cat(parts, dim=1))


def block_of(grid: Sequence[int], edge: int) -> int:
    """Cells an edge of a coarse cell, so that at most ``edge`` of them lie along each side of ``grid``."""
    return -(-max(grid) // edge)


def bytes_of(grids: Sequence[tuple[int, int, int]], edge: int) -> int:
    """Size of the packed maps, as base64, of layers with (N, H, W) when at most ``edge`` cells an edge are kept."""
    total = 0
    for heads, height, width in grids:
        block = block_of((height, width), edge)
        cells = -(-height // block) * -(-width // block)
        total += heads * cells * (cells + 4)
    return math.ceil(total * 4 / 3) + 8 * len(grids)


def picture_address(picture: Tensor) -> str:
    """An image, uint8 [C, Y, X], as a data address: PNG, or JPEG where that would be large."""
    image = Image.fromarray(picture.permute(1, 2, 0).squeeze(-1).numpy())
    png = _encoded(image, "PNG")
    kind, content = ("png", png) if len(png) <= LOSSLESS else ("jpeg", _encoded(image, "JPEG", quality=88))
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def fixed_map(name: str, weights: Tensor) -> Packed:
    """A map [H, W] that does not depend on a point, such as class activation."""
    return {"name": name, "grid": list(weights.shape), **pack(weights)}


def _layer(look: Look, name: str, edge: int | None) -> Packed:
    height, width = look.recording.grid(name)
    block = 1 if edge is None else block_of((height, width), edge)
    return {
        "name": name,
        "heads": look.recording.layers[name].num_heads,
        "full": [height, width],
        "grid": [-(-height // block), -(-width // block)],
        "cell": [block / height, block / width],  # shares of the picture; the last may be cut
    }


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _base64(values: Tensor) -> str:
    content = values.contiguous().numpy()
    little = content.astype(content.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")
