"""Numba kernels of the decomposed attention: one thread's share of the forward and of the backward pass.

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
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numba import njit, types

from aaconv.ops import cpu_vectors
from aaconv.ops.cpu_vectors import (
    LANES,
    LIMIT,
    ROW,
    WIDE,
    add,
    add_dots_one,
    add_dots_wide,
    add_outer_one,
    add_outer_wide,
    add_product_one,
    add_product_wide,
    add_term,
    attend_one,
    attend_wide,
    lane_sum,
    lead,
    masked_sum,
    weigh,
)

STEP = WIDE * LANES  # keys that the wide vector operations take at once
LOG2_E, LN2 = 1 / math.log(2), math.log(2)
SAFE = 2.0 ** (LIMIT - 10)  # a sum of weights below it held none that was cut off
# NaN and infinity keep their meaning; only the order of sums is free.
OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "nsz", "arcp"}, "_nrt": False}
jit = njit(**OPTIONS, forceinline=True)


def lanes_of(count):
    """``count`` rounded up to whole vectors."""
    return (count + LANES - 1) // LANES * LANES


_lanes = jit(lanes_of)


@jit
def _pack(source, b, n, tiles, packed):
    """Keys or values [B, N, channels, L] of one head into ``packed`` [C, channels, ROW]; whatever is no key stays 0."""
    for t in range(len(tiles)):
        first, count = tiles[t, 2] + tiles[t, 0] * tiles[t, 4], tiles[t, 1] * tiles[t, 3]
        for c in range(source.shape[2]):
            for j in range(count):
                packed[t, c, j] = source[b, n, c, first + j]


@jit
def _unpack(packed, b, n, tiles, factor, target):
    """``factor`` times ``packed`` [C, channels, ROW] into the keys or values [B, N, channels, L] of one head."""
    for t in range(len(tiles)):
        first, count = tiles[t, 2] + tiles[t, 0] * tiles[t, 4], tiles[t, 1] * tiles[t, 3]
        for c in range(target.shape[2]):
            for j in range(count):
                target[b, n, c, first + j] = factor * packed[t, c, j]


@jit
def _gather(source, b, n, first, rows4):
    """Numbers of four positions of [B, N, L, ...] into rows4 [4, ...]; beyond the last position they are 0."""
    for r in range(4):
        if first + r < source.shape[2]:
            for c in range(source.shape[3]):
                rows4[r, c] = source[b, n, first + r, c]
        else:
            rows4[r, :] = 0


@jit
def _gather_channels(source, b, n, first, rows4):
    """The same from [B, N, channels, L]."""
    for r in range(4):
        if first + r < source.shape[3]:
            for c in range(source.shape[2]):
                rows4[r, c] = source[b, n, c, first + r]
        else:
            rows4[r, :] = 0


@jit
def _bias(bias_h4, bias_w4, places, tiles, t, logits):
    """Position terms of four queries over tile t; returns its keys, filled up to whole vectors.

    The first row and column of the map stand at ``places`` [4, 2] of the terms. Rows are written in whole vectors: what
    spills over is overwritten by the next row.
    """
    y0, rows, x0, columns = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
    held, filled = rows * columns, _lanes(rows * columns)
    for r in range(4):
        source = r * bias_w4.shape[1] + places[r, 1] + x0
        for y in range(rows):
            term, start = bias_h4[r, places[r, 0] + y0 + y], r * ROW + y * columns
            for x in range(0, columns, LANES):
                add_term(logits, start + x, bias_w4, source + x, term)
        logits[r, held:filled] = -np.inf
    return filled


@jit
def _bias_sums(dlogits, tiles, t, mask, dbias_h4, dbias_w4):
    """Add the sums of the logits' gradients over each key row and each key column; ``mask`` is 1 inside a row.

    ``dlogits`` is 0 beyond the tile's keys, where the last row's vectors may reach.
    """
    y0, rows, x0, columns = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
    zero, one = dlogits.dtype.type(0), dlogits.dtype.type(1)
    for x in range(_lanes(columns)):
        mask[x] = one if x < columns else zero
    for r in range(4):
        target = r * dbias_w4.shape[1] + x0
        for y in range(rows):
            total, start = zero, r * ROW + y * columns
            for x in range(0, columns, LANES):
                add(dbias_w4, target + x, dlogits, start + x)
                total += masked_sum(dlogits, start + x, mask, x)
            dbias_h4[r, y0 + y] += total


@jit
def _add_product(rows4, channels, at, count, target):
    """4 rows of target += rows4 [4, channels] @ channels [channels, ROW], the first ``count`` columns."""
    width, wide = rows4.shape[1], count // STEP * STEP
    for j in range(0, wide, STEP):
        add_product_wide(target, j, channels, at + j, rows4, width)
    for j in range(wide, count, LANES):
        add_product_one(target, j, channels, at + j, rows4, width)


@jit
def _add_outer(rows4, weights, count, target, to):
    """target [channels, ROW] += rows4.T [channels, 4] @ 4 rows of weights, the first ``count`` columns."""
    width, wide = rows4.shape[1], count // STEP * STEP
    for j in range(0, wide, STEP):
        add_outer_wide(target, to + j, weights, j, rows4, width)
    for j in range(wide, count, LANES):
        add_outer_one(target, to + j, weights, j, rows4, width)


@jit
def _add_dots(weights, channels, start, count, lanes):
    """lanes [4, channels, LANES] += 4 rows of weights * channels [channels, ROW], the first ``count`` columns."""
    width, wide = lanes.shape[1], count // STEP * STEP
    for j in range(0, wide, STEP):
        add_dots_wide(lanes, weights, j, channels, start + j, width)
    for j in range(wide, count, LANES):
        add_dots_one(lanes, weights, j, channels, start + j, width)


@jit
def _largest(q4, keys, bias_h4, bias_w4, places, tiles, logits, factor, largest):
    """The logit of each of four queries that is largest times ``factor``, NaN if one is NaN, into largest [4]."""
    width = q4.shape[1]
    for t in range(len(tiles)):
        filled = _bias(bias_h4, bias_w4, places, tiles, t, logits)
        _add_product(q4, keys, t * width * ROW, filled, logits)
        for r in range(4):
            top = logits[r, 0] if t == 0 else largest[r]
            for j in range(tiles[t, 1] * tiles[t, 3]):
                logit = logits[r, j]
                top = logit if factor * logit > factor * top or logit != logit else top
            largest[r] = top


@jit
def _split(largest, factor, shift):
    """``factor`` times largest [4], each as the sum of two numbers, into shift [2, 4]."""
    for r in range(4):
        exact = np.float64(largest[r]) * np.float64(factor)
        shift[0, r] = exact
        shift[1, r] = exact - np.float64(shift[0, r])


@jit
def _attend(q4, keys, vals, bias_h4, bias_w4, places, tiles, logits, factor, largest, shift, sums, lanes, leading):
    """Sums of the weights 2^(factor * logit - shift) [4, LANES], and of weights times values [4, V, LANES].

    The shift is ``factor`` times ``largest`` [4]; with ``leading`` that is the largest of the first few logits, which
    is enough unless a later one is larger by far.
    """
    width, values = q4.shape[1], lanes.shape[1]
    sums[:] = 0
    lanes[:] = 0
    for t in range(len(tiles)):
        filled, key, value = _bias(bias_h4, bias_w4, places, tiles, t, logits), t * width * ROW, t * values * ROW
        if t == 0:
            if leading:
                lead(largest, logits, 0, keys, 0, q4, width)
            _split(largest, factor, shift)
        wide = filled // STEP * STEP
        for j in range(0, wide, STEP):
            attend_wide(logits, j, keys, key + j, q4, width, factor, shift, sums, vals, value + j, lanes, values)
        for j in range(wide, filled, LANES):
            attend_one(logits, j, keys, key + j, q4, width, factor, shift, sums, vals, value + j, lanes, values)


@jit
def _in_range(sums):
    """Whether no weight came near the limit, where larger ones and NaN end."""
    beyond = 0
    for r in range(4):
        beyond += 0 if lane_sum(sums, r * LANES) < SAFE else 1
    return beyond == 0


@jit
def _weights_and_gradients(lse, delta, b, n, first, factor, count, weights, dlogits):
    """Turn logits [4, ROW] into softmax weights, and gradients of weights [4, ROW] into gradients of logits."""
    for r in range(4):
        place = min(first + r, lse.shape[2] - 1)  # a query too many has no gradient to weigh
        power, mean = lse[b, n, place] * LOG2_E, delta[b, n, place]
        shift = weights.dtype.type(power)
        rest = weights.dtype.type(power - shift)
        for j in range(0, count, LANES):
            weigh(weights, dlogits, r * ROW + j, factor, shift, rest, mean)


@jit
def _bias_from_tables(q4, tables, first, height, width, bias_h4, bias_w4, places):
    """Position terms of four queries for every offset, from ``tables`` [2, K, ROW] of vertical and horizontal ones."""
    bias_h4[:] = 0
    bias_w4[:] = 0
    _add_product(q4, tables, 0, _lanes(2 * height - 1), bias_h4)
    _add_product(q4, tables, q4.shape[1] * ROW, _lanes(2 * width - 1), bias_w4)
    for r in range(4):
        place = min(first + r, height * width - 1)
        places[r, 0] = height - 1 - place // width
        places[r, 1] = width - 1 - place % width


def forward_parts(channels, values, height, width, tiles):
    """Numbers in each part of a share's scratch, in the order in which ``forward`` takes them."""
    vectors = tiles * ROW * channels, tiles * ROW * values, 4 * ROW, 4 * LANES, 4 * values * LANES
    return *vectors, 4 * max(lanes_of(width), ROW), 4 * max(height, ROW), 4 * channels, 4, 8


def forward(q, k, v, bias_h, bias_w, tables, scale, tiles, work, ends, places, out, lse, start, stop):
    """Output and log-sum-exp [B, N, L] of the query blocks start..stop, numbered head by head.

    ``q``, ``k``, ``v`` and ``out`` are [B, N, channels, L]. The terms are taken from ``bias_h`` and ``bias_w``, or from
    ``tables`` [2, K, ROW] unless empty, of which only the sizes of the other two are read then. ``work`` is scratch of
    zeros whose parts end at ``ends``, ``places`` one of integers [4, 2]. Log-sum-exp is float64: a rounding of it would
    weigh on all gradients of its query alike.
    """
    heads, channels, length, values, count = q.shape[1], q.shape[2], q.shape[3], v.shape[2], len(tiles)
    keys, vals = work[: ends[0]].reshape(count, channels, ROW), work[ends[0] : ends[1]].reshape(count, values, ROW)
    logits, sums = work[ends[1] : ends[2]].reshape(4, ROW), work[ends[2] : ends[3]].reshape(4, LANES)
    lanes, bias_w4 = work[ends[3] : ends[4]].reshape(4, values, LANES), work[ends[4] : ends[5]].reshape(4, -1)
    bias_h4, q4 = work[ends[5] : ends[6]].reshape(4, -1), work[ends[6] : ends[7]].reshape(4, channels)
    largest, shift = work[ends[7] : ends[8]], work[ends[8] : ends[9]].reshape(2, 4)
    blocks, packed, factor = (length + 3) // 4, -1, q.dtype.type(scale * LOG2_E)
    for item in range(start, stop):
        head, first = item // blocks, item % blocks * 4
        b, n = head // heads, head % heads
        if head != packed:
            _pack(k, b, n, tiles, keys)
            _pack(v, b, n, tiles, vals)
            packed = head
        _gather_channels(q, b, n, first, q4)
        if len(tables):
            _bias_from_tables(q4, tables, first, bias_h.shape[3], bias_w.shape[3], bias_h4, bias_w4, places)
        else:
            _gather(bias_h, b, n, first, bias_h4)
            _gather(bias_w, b, n, first, bias_w4)
        _attend(q4, keys, vals, bias_h4, bias_w4, places, tiles, logits, factor, largest, shift, sums, lanes, True)
        if not _in_range(sums):
            _largest(q4, keys, bias_h4, bias_w4, places, tiles, logits, factor, largest)
            _attend(q4, keys, vals, bias_h4, bias_w4, places, tiles, logits, factor, largest, shift, sums, lanes, False)
        for r in range(min(4, length - first)):
            total = lane_sum(sums, r * LANES) if np.isfinite(largest[r]) else q.dtype.type(np.nan)
            exact = np.float64(shift[0, r]) + np.float64(shift[1, r])
            lse[b, n, first + r] = (exact + np.log2(np.float64(total))) * LN2
            for c in range(values):
                out[b, n, c, first + r] = lane_sum(lanes, (r * values + c) * LANES) / total


def backward_parts(channels, values, height, width, tiles):
    """Numbers in each part of a share's scratch, in the order in which ``backward`` takes them."""
    keys, vals, row = tiles * ROW * channels, tiles * ROW * values, 4 * lanes_of(width)
    vectors = keys, vals, keys, vals, 4 * ROW, 4 * ROW, 4 * channels * LANES, row, row, ROW
    return *vectors, 4 * height, 4 * height, 4 * channels, 4 * values


def backward(
    q,
    k,
    v,
    bias_h,
    bias_w,
    scale,
    tiles,
    work,
    ends,
    places,
    lse,
    grad,
    delta,
    dq,
    dk,
    dv,
    dbias_h,
    dbias_w,
    part,
    parts,
    head,
):
    """Gradients from one head and the part-th of ``parts`` shares of its queries.

    ``q``, ``k``, ``v``, ``grad`` and their gradients are [B, N, channels, L]. ``delta`` [B, N, L] is the sum of output
    times its gradient; ``dk`` and ``dv`` are this part's own; rows of ``dq``, ``dbias_h`` and ``dbias_w`` belong to one
    part.
    """
    channels, length, values, count = q.shape[2], q.shape[3], v.shape[2], len(tiles)
    keys, vals = work[: ends[0]].reshape(count, channels, ROW), work[ends[0] : ends[1]].reshape(count, values, ROW)
    dkeys = work[ends[1] : ends[2]].reshape(count, channels, ROW)
    dvals = work[ends[2] : ends[3]].reshape(count, values, ROW)
    weights, dlogits = work[ends[3] : ends[4]].reshape(4, ROW), work[ends[4] : ends[5]].reshape(4, ROW)
    lanes, bias_w4 = work[ends[5] : ends[6]].reshape(4, channels, LANES), work[ends[6] : ends[7]].reshape(4, -1)
    dbias_w4, mask = work[ends[7] : ends[8]].reshape(4, -1), work[ends[8] : ends[9]]
    bias_h4, dbias_h4 = work[ends[9] : ends[10]].reshape(4, -1), work[ends[10] : ends[11]].reshape(4, -1)
    q4, g4 = work[ends[11] : ends[12]].reshape(4, channels), work[ends[12] : ends[13]].reshape(4, values)
    blocks, one, factor = (length + 3) // 4, q.dtype.type(1), q.dtype.type(scale * LOG2_E)
    b, n = head // q.shape[1], head % q.shape[1]
    _pack(k, b, n, tiles, keys)
    _pack(v, b, n, tiles, vals)
    dkeys[:] = 0
    dvals[:] = 0
    for block in range(blocks * part // parts, blocks * (part + 1) // parts):
        first = block * 4
        _gather_channels(q, b, n, first, q4)
        _gather(bias_h, b, n, first, bias_h4)
        _gather(bias_w, b, n, first, bias_w4)
        _gather_channels(grad, b, n, first, g4)
        lanes[:] = 0
        dbias_h4[:] = 0
        dbias_w4[:] = 0
        for t in range(count):
            filled = _bias(bias_h4, bias_w4, places, tiles, t, weights)
            _add_product(q4, keys, t * channels * ROW, filled, weights)
            dlogits[:] = 0
            _add_product(g4, vals, t * values * ROW, filled, dlogits)
            _weights_and_gradients(lse, delta, b, n, first, factor, filled, weights, dlogits)
            _add_dots(dlogits, keys, t * channels * ROW, filled, lanes)
            _add_outer(q4, dlogits, filled, dkeys, t * channels * ROW)
            _add_outer(g4, weights, filled, dvals, t * values * ROW)
            _bias_sums(dlogits, tiles, t, mask, dbias_h4, dbias_w4)
        for r in range(min(4, length - first)):
            for c in range(channels):
                dq[b, n, c, first + r] = scale * lane_sum(lanes, (r * channels + c) * LANES)
            for y in range(bias_h.shape[3]):
                dbias_h[b, n, first + r, y] = scale * dbias_h4[r, y]
            for x in range(bias_w.shape[3]):
                dbias_w[b, n, first + r, x] = scale * dbias_w4[r, x]
    _unpack(dkeys, b, n, tiles, scale, dk)
    _unpack(dvals, b, n, tiles, one, dv)


@cache
def compiled(kernel: Callable[..., None], bits: int) -> Callable[..., None]:
    """``forward`` or ``backward`` for float32 or float64, taken from the disk if it is there."""
    number = types.float32 if bits == 32 else types.float64
    array4, array3, work = (types.Array(number, dimensions, "C") for dimensions in (4, 3, 1))
    lse = types.Array(types.float64, 3, "C")
    tiles, ends, integer = types.Array(types.int64, 2, "C"), types.Array(types.int64, 1, "C"), types.int64
    scratch = tiles, work, ends, types.Array(types.int64, 2, "C")
    if kernel is forward:
        signature = types.void(*(array4,) * 5, array3, number, *scratch, array4, lse, integer, integer)
    else:
        results = *(array4,) * 5, *(integer,) * 3
        signature = types.void(*(array4,) * 5, number, *scratch, lse, array4, array3, *results)
    # Numba looks at this file alone to tell whether what it kept is old; the name of what it keeps tells the rest.
    kernel.__qualname__ = f"{kernel.__name__}_{crc32(Path(cpu_vectors.__file__).read_bytes()):08x}"
    try:
        return njit(signature, nogil=True, cache=True, **OPTIONS)(kernel)
    except RuntimeError:  # no folder to keep compiled code in
        return njit(signature, nogil=True, **OPTIONS)(kernel)
