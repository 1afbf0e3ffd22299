"""Numba kernels of the decomposed attention: one thread's share of the forward and of the backward pass.

A kernel works on four queries at a time and on one tile of keys at a time, whole rows of the key map where they fit.
Keys and values are laid out with keys innermost, so that all inner loops run over keys and become vector code; four
queries and four channels share each pass over a tile. Nothing has the size of L x L: logits live in scratch of [4, L]
(forward) or [4, TILE] (backward).

What the compiler needs is easy to lose: zeros are typed (``x * 0`` of a float32 is a float64), tiles are passed as
(array, index) because slices cost atomic reference counts, and scratch starts on a cache line.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head; C tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, types

from aaconv.ops.cpu_math import as_ordered, exp, from_ordered
from aaconv.ops.cpu_vectors import (
    LANES,
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
    lane_sum,
    masked_sum,
)

STEP = WIDE * LANES  # keys that the wide vector operations take at once
# NaN and infinity keep their meaning; only the order of sums is free.
FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit
def _scratch(tiles, rows, like):
    """[tiles, rows, ROW] of zeros that start on a cache line."""
    raw = np.zeros(tiles * rows * ROW + 64, like.dtype)
    skip = (64 - raw.ctypes.data % 64) % 64 // raw.itemsize
    return raw[skip : skip + tiles * rows * ROW].reshape(tiles, rows, ROW)


@njit
def _lanes(count):
    """``count`` rounded up to whole vectors."""
    return (count + LANES - 1) // LANES * LANES


@njit(fastmath=FAST)
def _pack(source, b, n, tiles, packed):
    """Keys or values of one head into ``packed`` [C, channels, ROW]; whatever is no key stays 0."""
    for t in range(len(tiles)):
        y0, rows, x0, columns, width = tiles[t]
        for y in range(rows):
            for x in range(columns):
                place = (y0 + y) * width + x0 + x
                for c in range(source.shape[3]):
                    packed[t, c, y * columns + x] = source[b, n, place, c]


@njit(fastmath=FAST)
def _unpack(packed, b, n, tiles, target):
    """``packed`` [C, channels, ROW] into the keys or values of one head."""
    for t in range(len(tiles)):
        y0, rows, x0, columns, width = tiles[t]
        for y in range(rows):
            for x in range(columns):
                place = (y0 + y) * width + x0 + x
                for c in range(target.shape[3]):
                    target[b, n, place, c] = packed[t, c, y * columns + x]


@njit(fastmath=FAST)
def _gather(source, b, n, first, scale, rows4):
    """Numbers of four positions, scaled, into rows4 [4, ...]; beyond the last position they are 0."""
    zero = source.dtype.type(0)
    for r in range(4):
        for c in range(source.shape[3]):
            rows4[r, c] = scale * source[b, n, first + r, c] if first + r < source.shape[2] else zero


@njit(fastmath=FAST)
def _bias(bias_h4, bias_w4, tiles, t, logits, to):
    """Position terms of four queries over tile t; returns its keys, filled up to whole vectors.

    Rows are written in whole vectors: what spills over is overwritten by the next row.
    """
    y0, rows, x0, columns = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
    held, filled, flat = rows * columns, _lanes(rows * columns), logits.reshape(-1)
    for r in range(4):
        source = r * bias_w4.shape[1] + x0
        for y in range(rows):
            term, start = bias_h4[r, y0 + y], to + r * ROW + y * columns
            for x in range(0, columns, LANES):
                add_term(logits, start + x, bias_w4, source + x, term)
        for j in range(to + r * ROW + held, to + r * ROW + filled):
            flat[j] = -np.inf
    return filled


@njit(fastmath=FAST)
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


@njit(fastmath=FAST)
def _add_product(rows4, channels, at, count, target, to):
    """4 rows of target += rows4 [4, channels] @ channels [channels, ROW], the first ``count`` columns."""
    width, wide = rows4.shape[1], count // STEP * STEP
    for j in range(0, wide, STEP):
        add_product_wide(target, to + j, channels, at + j, rows4, width)
    for j in range(wide, count, LANES):
        add_product_one(target, to + j, channels, at + j, rows4, width)


@njit(fastmath=FAST)
def _add_outer(rows4, weights, count, target, to):
    """target [channels, ROW] += rows4.T [channels, 4] @ 4 rows of weights, the first ``count`` columns."""
    width, wide = rows4.shape[1], count // STEP * STEP
    for j in range(0, wide, STEP):
        add_outer_wide(target, to + j, weights, j, rows4, width)
    for j in range(wide, count, LANES):
        add_outer_one(target, to + j, weights, j, rows4, width)


@njit(fastmath=FAST)
def _add_dots(weights, at, channels, start, count, lanes):
    """lanes [4, channels, LANES] += 4 rows of weights * channels [channels, ROW], the first ``count`` columns."""
    width, wide = lanes.shape[1], count // STEP * STEP
    for j in range(0, wide, STEP):
        add_dots_wide(lanes, weights, at + j, channels, start + j, width)
    for j in range(wide, count, LANES):
        add_dots_one(lanes, weights, at + j, channels, start + j, width)


@njit(fastmath=FAST)
def _softmax(logits, fills, total):
    """Turn logits [C, 4, ROW] into e^(logit - largest); the largest and the sum of each query go to total [2, 4]."""
    for r in range(4):
        top = as_ordered(logits[0, r, 0])
        for t in range(len(fills)):
            for j in range(fills[t]):
                key = as_ordered(logits[t, r, j])
                top = key if key > top else top
        largest, weight = from_ordered(top), logits.dtype.type(0)
        for t in range(len(fills)):
            for j in range(fills[t]):
                power = exp(logits[t, r, j] - largest)
                logits[t, r, j] = power
                weight += power
        total[0, r] = largest
        total[1, r] = weight


@njit(fastmath=FAST)
def _weights_and_gradients(lse, delta, b, n, first, count, weights, dlogits):
    """Turn logits into softmax weights, and gradients of weights [1, 4, ROW] into gradients of logits."""
    for r in range(4):
        place = min(first + r, lse.shape[2] - 1)  # a query too many has no gradient to weigh
        shift, mean = lse[b, n, place], delta[b, n, place]
        for j in range(count):
            weight = exp(weights[0, r, j] - shift)
            weights[0, r, j] = weight
            dlogits[0, r, j] = weight * (dlogits[0, r, j] - mean)


def forward(q, k, v, bias_h, bias_w, scale, tiles, out, lse, start, stop):
    """Output [B, N, L, V] and log-sum-exp [B, N, L] of the query blocks start..stop, numbered head by head."""
    heads, length, channels, values, count = q.shape[1], q.shape[2], q.shape[3], v.shape[3], len(tiles)
    keys, vals, logits = _scratch(count, channels, q), _scratch(count, values, q), _scratch(count, 4, q)
    q4, lanes, total = (
        np.empty((4, channels), q.dtype),
        np.empty((4, values, LANES), q.dtype),
        np.empty((2, 4), q.dtype),
    )
    bias_h4, bias_w4 = np.zeros((4, bias_h.shape[3]), q.dtype), np.zeros((4, _lanes(bias_w.shape[3])), q.dtype)
    fills, blocks, packed = np.empty(count, np.int64), (length + 3) // 4, -1
    for item in range(start, stop):
        head, first = item // blocks, item % blocks * 4
        b, n = head // heads, head % heads
        if head != packed:
            _pack(k, b, n, tiles, keys)
            _pack(v, b, n, tiles, vals)
            packed = head
        _gather(q, b, n, first, scale, q4)
        _gather(bias_h, b, n, first, scale, bias_h4)
        _gather(bias_w, b, n, first, scale, bias_w4)
        for t in range(count):
            fills[t] = _bias(bias_h4, bias_w4, tiles, t, logits, t * 4 * ROW)
            _add_product(q4, keys, t * channels * ROW, fills[t], logits, t * 4 * ROW)
        _softmax(logits, fills, total)
        lanes[:] = 0
        for t in range(count):
            _add_dots(logits, t * 4 * ROW, vals, t * values * ROW, fills[t], lanes)
        for r in range(min(4, length - first)):
            lse[b, n, first + r] = total[0, r] + math.log(total[1, r])
            for c in range(values):
                out[b, n, first + r, c] = lane_sum(lanes, (r * values + c) * LANES) / total[1, r]


def backward(
    q, k, v, bias_h, bias_w, scale, tiles, lse, grad, delta, dq, dk, dv, dbias_h, dbias_w, part, parts, start, stop
):
    """Gradients from heads start..stop and the part-th of ``parts`` shares of their queries.

    ``delta`` [B, N, L] is the sum of output times its gradient; ``dk`` and ``dv`` are this part's own; rows of ``dq``,
    ``dbias_h`` and ``dbias_w`` belong to one part.
    """
    heads, length, channels, values, count = q.shape[1], q.shape[2], q.shape[3], v.shape[3], len(tiles)
    keys, vals, weights = _scratch(count, channels, q), _scratch(count, values, q), _scratch(1, 4, q)
    dkeys, dvals, dlogits = _scratch(count, channels, q), _scratch(count, values, q), _scratch(1, 4, q)
    q4, g4, lanes = (
        np.empty((4, channels), q.dtype),
        np.empty((4, values), q.dtype),
        np.empty((4, channels, LANES), q.dtype),
    )
    bias_h4, bias_w4 = np.zeros((4, bias_h.shape[3]), q.dtype), np.zeros((4, _lanes(bias_w.shape[3])), q.dtype)
    dbias_h4, dbias_w4, mask = np.empty_like(bias_h4), np.empty_like(bias_w4), np.empty(ROW, q.dtype)
    blocks, one = (length + 3) // 4, q.dtype.type(1)
    for head in range(start, stop):
        b, n = head // heads, head % heads
        _pack(k, b, n, tiles, keys)
        _pack(v, b, n, tiles, vals)
        dkeys[:] = 0
        dvals[:] = 0
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            first = block * 4
            _gather(q, b, n, first, scale, q4)
            _gather(bias_h, b, n, first, scale, bias_h4)
            _gather(bias_w, b, n, first, scale, bias_w4)
            _gather(grad, b, n, first, one, g4)
            lanes[:] = 0
            dbias_h4[:] = 0
            dbias_w4[:] = 0
            for t in range(count):
                filled = _bias(bias_h4, bias_w4, tiles, t, weights, 0)
                _add_product(q4, keys, t * channels * ROW, filled, weights, 0)
                dlogits[:] = 0
                _add_product(g4, vals, t * values * ROW, filled, dlogits, 0)
                _weights_and_gradients(lse, delta, b, n, first, filled, weights, dlogits)
                _add_dots(dlogits, 0, keys, t * channels * ROW, filled, lanes)
                _add_outer(q4, dlogits, filled, dkeys, t * channels * ROW)
                _add_outer(g4, weights, filled, dvals, t * values * ROW)
                _bias_sums(dlogits, tiles, t, mask, dbias_h4, dbias_w4)
            for r in range(min(4, length - first)):
                for c in range(channels):
                    dq[b, n, first + r, c] = scale * lane_sum(lanes, (r * channels + c) * LANES)
                for y in range(bias_h.shape[3]):
                    dbias_h[b, n, first + r, y] = scale * dbias_h4[r, y]
                for x in range(bias_w.shape[3]):
                    dbias_w[b, n, first + r, x] = scale * dbias_w4[r, x]
        _unpack(dkeys, b, n, tiles, dk)
        _unpack(dvals, b, n, tiles, dv)


@cache
def compiled(kernel: Callable[..., None], bits: int) -> Callable[..., None]:
    """``forward`` or ``backward`` for float32 or float64 tensors of any strides, taken from the disk if it is there."""
    number = types.float32 if bits == 32 else types.float64
    array4, array3 = types.Array(number, 4, "A"), types.Array(number, 3, "A")
    tiles, integer = types.Array(types.int64, 2, "C"), types.int64
    inputs = (array4,) * 5 + (number, tiles)
    if kernel is forward:
        signature = types.void(*inputs, array4, array3, integer, integer)
    else:
        signature = types.void(*inputs, array3, array4, array3, *(array4,) * 5, *(integer,) * 4)
    try:
        return njit(signature, nogil=True, fastmath=FAST, cache=True)(kernel)
    except RuntimeError:  # no folder to keep compiled code in
        return njit(signature, nogil=True, fastmath=FAST)(kernel)
