"""The backward kernel of the CPU: one head, or a share of its queries.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head; C tiles.
"""

from __future__ import annotations

from aaconv.ops.cpu_code import LANES, ROW
from aaconv.ops.cpu_common import (
    LOG2_E,
    STEP,
    add_product,
    gather,
    gather_channels,
    jit,
    lanes_of,
    pack,
    unpack,
    whole_lanes,
    write_bias,
)
from aaconv.ops.cpu_vectors import (
    add,
    add_dots_one,
    add_dots_wide,
    add_outer_one,
    add_outer_wide,
    lane_sum,
    masked_sum,
    weigh,
)


@jit
def _bias_sums(dlogits, tiles, t, mask, dbias_h4, dbias_w4):
    """Add the sums of the logits' gradients over each key row and each key column; ``mask`` is 1 inside a row.

    ``dlogits`` is 0 beyond the tile's keys, where the last row's vectors may reach.
    """
    y0, rows, x0, columns = tiles[t, 0], tiles[t, 1], tiles[t, 2], tiles[t, 3]
    zero, one = dlogits.dtype.type(0), dlogits.dtype.type(1)
    for x in range(whole_lanes(columns)):
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
def _weights_and_gradients(lse, delta, b, n, first, factor, count, weights, dlogits):
    """Turn logits [4, ROW] into softmax weights, and gradients of weights [4, ROW] into gradients of logits."""
    for r in range(4):
        place = min(first + r, lse.shape[2] - 1)  # a query too many has no gradient to weigh
        power, mean = lse[b, n, place] * LOG2_E, delta[b, n, place]
        shift = weights.dtype.type(power)
        rest = weights.dtype.type(power - shift)
        for j in range(0, count, LANES):
            weigh(weights, dlogits, r * ROW + j, factor, shift, rest, mean)


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
    pack(k, b, n, tiles, keys)
    pack(v, b, n, tiles, vals)
    dkeys[:] = 0
    dvals[:] = 0
    for block in range(blocks * part // parts, blocks * (part + 1) // parts):
        first = block * 4
        gather_channels(q, b, n, first, q4)
        gather(bias_h, b, n, first, bias_h4)
        gather(bias_w, b, n, first, bias_w4)
        gather_channels(grad, b, n, first, g4)
        lanes[:] = 0
        dbias_h4[:] = 0
        dbias_w4[:] = 0
        for t in range(count):
            filled = write_bias(bias_h4, bias_w4, places, tiles, t, weights)
            add_product(q4, keys, t * channels * ROW, filled, weights)
            dlogits[:] = 0
            add_product(g4, vals, t * values * ROW, filled, dlogits)
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
    unpack(dkeys, b, n, tiles, scale, dk)
    unpack(dvals, b, n, tiles, one, dv)
