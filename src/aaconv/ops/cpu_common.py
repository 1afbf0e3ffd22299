"""What the forward and the backward kernel of the CPU share.

A kernel works on four queries at a time and on one tile of keys at a time, whole rows of the key map where they fit.
Keys and values have their positions innermost, so that all inner loops run over keys as vector code; four queries and
four vectors of keys share each pass over a tile. Nothing has the size of L x L: logits live in scratch of [4, ROW].
Weights are powers of two.

What the compiler needs is easy to lose: tiles are passed as (array, index), and the kernels are compiled without
Numba's memory management, whose atomic counts took a third of the time; scratch therefore comes from outside.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head; C tiles.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from aaconv.ops.cpu_code import LANES, ROW, WIDE
from aaconv.ops.cpu_vectors import add_product_one, add_product_wide, add_term

STEP = WIDE * LANES  # keys that the wide vector operations take at once
LOG2_E, LN2 = 1 / math.log(2), math.log(2)
# NaN and infinity keep their meaning; only the order of sums is free.
OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "nsz", "arcp"}, "_nrt": False}
jit = njit(**OPTIONS, forceinline=True)


def lanes_of(count):
    """``count`` rounded up to whole vectors."""
    return (count + LANES - 1) // LANES * LANES


whole_lanes = jit(lanes_of)


@jit
def pack(source, b, n, tiles, packed):
    """Keys or values [B, N, channels, L] of one head into ``packed`` [C, channels, ROW]; whatever is no key stays 0."""
    for t in range(len(tiles)):
        first, count = tiles[t, 2] + tiles[t, 0] * tiles[t, 4], tiles[t, 1] * tiles[t, 3]
        for c in range(source.shape[2]):
            for j in range(count):
                packed[t, c, j] = source[b, n, c, first + j]


@jit
def unpack(packed, b, n, tiles, factor, target):
    """``factor`` times ``packed`` [C, channels, ROW] into the keys or values [B, N, channels, L] of one head."""
    for t in range(len(tiles)):
        first, count = tiles[t, 2] + tiles[t, 0] * tiles[t, 4], tiles[t, 1] * tiles[t, 3]
        for c in range(target.shape[2]):
            for j in range(count):
                target[b, n, c, first + j] = factor * packed[t, c, j]


@jit
def gather(source, b, n, first, rows4):
    """Numbers of four positions of [B, N, L, ...] into rows4 [4, ...]; beyond the last position they are 0."""
    for r in range(4):
        if first + r < source.shape[2]:
            for c in range(source.shape[3]):
                rows4[r, c] = source[b, n, first + r, c]
        else:
            rows4[r, :] = 0


@jit
def gather_channels(source, b, n, first, rows4):
    """The same from [B, N, channels, L]."""
    for r in range(4):
        if first + r < source.shape[3]:
            for c in range(source.shape[2]):
                rows4[r, c] = source[b, n, c, first + r]
        else:
            rows4[r, :] = 0


@jit
def write_bias(bias_h4, bias_w4, places, tiles, t, logits):
    """Position terms of four queries over tile t; returns its keys, filled up to whole vectors.

    The first row and column of the map stand at ``places`` [4, 2] of the terms. Rows are written in whole vectors: what
    spills over is overwritten by the next row.
    """
    y0, rows, x0, columns = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
    held, filled = rows * columns, whole_lanes(rows * columns)
    for r in range(4):
        source = r * bias_w4.shape[1] + places[r, 1] + x0
        for y in range(rows):
            term, start = bias_h4[r, places[r, 0] + y0 + y], r * ROW + y * columns
            for x in range(0, columns, LANES):
                add_term(logits, start + x, bias_w4, source + x, term)
        logits[r, held:filled] = -np.inf
    return filled


@jit
def add_product(rows4, channels, at, count, target):
    """4 rows of target += rows4 [4, channels] @ channels [channels, ROW], the first ``count`` columns."""
    width, wide = rows4.shape[1], count // STEP * STEP
    for j in range(0, wide, STEP):
        add_product_wide(target, j, channels, at + j, rows4, width)
    for j in range(wide, count, LANES):
        add_product_one(target, j, channels, at + j, rows4, width)
