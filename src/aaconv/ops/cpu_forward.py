"""The forward kernel of the CPU: one thread's share.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head; C tiles.
"""

from __future__ import annotations

import numpy as np

from aaconv.ops.cpu_code import LANES, LIMIT, ROW
from aaconv.ops.cpu_common import (
    LN2,
    LOG2_E,
    STEP,
    add_product,
    gather,
    gather_channels,
    jit,
    lanes_of,
    pack,
    whole_lanes,
    write_bias,
)
from aaconv.ops.cpu_vectors import attend_one, attend_wide, lane_sum, lead

SAFE = 2.0 ** (LIMIT - 10)  # a sum of weights below it held none that was cut off


@jit
def _largest(q4, keys, bias_h4, bias_w4, places, tiles, logits, factor, largest):
    """The logit of each of four queries that is largest times ``factor``, NaN if one is NaN, into largest [4]."""
    width = q4.shape[1]
    for t in range(len(tiles)):
        filled = write_bias(bias_h4, bias_w4, places, tiles, t, logits)
        add_product(q4, keys, t * width * ROW, filled, logits)
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
        filled, key, value = write_bias(bias_h4, bias_w4, places, tiles, t, logits), t * width * ROW, t * values * ROW
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
def _bias_from_tables(q4, tables, first, height, width, bias_h4, bias_w4, places):
    """Position terms of four queries for every offset, from ``tables`` [2, K, ROW] of vertical and horizontal ones."""
    bias_h4[:] = 0
    bias_w4[:] = 0
    add_product(q4, tables, 0, whole_lanes(2 * height - 1), bias_h4)
    add_product(q4, tables, q4.shape[1] * ROW, whole_lanes(2 * width - 1), bias_w4)
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
            pack(k, b, n, tiles, keys)
            pack(v, b, n, tiles, vals)
            packed = head
        gather_channels(q, b, n, first, q4)
        if len(tables):
            _bias_from_tables(q4, tables, first, bias_h.shape[3], bias_w.shape[3], bias_h4, bias_w4, places)
        else:
            gather(bias_h, b, n, first, bias_h4)
            gather(bias_w, b, n, first, bias_w4)
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
