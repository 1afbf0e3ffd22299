"""Triton kernels of the decomposed attention: forward, gradients by query, gradients by key.

A program owns a block of queries (or one tile of keys) and walks over the tiles of keys (or the blocks of queries). A
tile is BLOCK_ROWS whole rows of the key map, or parts of rows where the map is wider than BLOCK_COLS, flattened to
BLOCK_KEYS = BLOCK_ROWS * BLOCK_COLS cells; the cells of a tile that lie outside the map get logit -inf. So the position
terms of a tile are [queries, BLOCK_ROWS] + [queries, BLOCK_COLS] numbers, spread to [queries, BLOCK_KEYS] in registers.

Every output is written once, by the program that owns it: no atomics, and the same bits on every run with the same
blocks. Logits are kept in units of log 2, with the scale folded in, for exp2. Places inside a head are 64-bit, so that
no offset overflows.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)

CONFIGS = [  # from large to small; the interpreter takes the last
    triton.Config({"BLOCK_Q": queries, "BLOCK_KEYS": keys}, num_warps=warps, num_stages=stages)
    for queries, keys, warps, stages in (
        (128, 64, 8, 2),
        (64, 64, 4, 2),
        (64, 32, 4, 2),
        (32, 64, 4, 2),
        (32, 64, 8, 2),
        (32, 32, 4, 2),
        (16, 32, 4, 1),
    )
]


def _fitting(configs: list[Any], arguments: dict[str, Any], **choices: Any) -> list[Any]:
    """The four largest blocks that stay in registers, judged by the numbers a thread holds; else the lightest."""

    def held(config: Any) -> float:
        queries, keys = config.kwargs["BLOCK_Q"], config.kwargs["BLOCK_KEYS"]
        channels = choices["PADDED_K"] + choices["PADDED_V"]
        return (queries * keys + max(queries, keys) * channels) / (32 * config.num_warps)

    # Exact products of float32 are no work for tensor cores: each thread also holds whole operands. The limits are
    # where the compiled kernels begin to spill.
    exact = arguments["q"].dtype.itemsize == 4 and choices["PRECISION"] == "ieee"
    fitting = [config for config in configs if held(config) <= (40 if exact else 100)]
    return fitting[:4] or [min(configs, key=held)]


def _tuned(kernel: Any) -> Any:
    """The kernel with its blocks chosen by timing, on the first call for a kind of input."""
    configs = CONFIGS[-1:] if triton.knobs.runtime.interpret else CONFIGS
    # ``bucket`` stands for L, so that maps of nearly one size share a choice; dtypes count by themselves.
    key = ["bucket", "K", "V", "BLOCK_COLS", "PRECISION"]
    return triton.autotune(configs, key=key, prune_configs_by={"early_config_prune": _fitting})(kernel)


@triton.jit
def _head(tensor, strides, head, heads):
    """Where one head of a [B, N, ...] tensor starts."""
    return tensor + (head // heads).to(tl.int64) * strides[0] + (head % heads).to(tl.int64) * strides[1]


@triton.jit
def _load(tensor, strides, places, valid, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    """[places, PADDED] of a head [L, CHANNELS]; 0 where a place is not valid and beyond the last channel."""
    channels = tl.arange(0, PADDED).to(tl.int64)
    cells = tensor + places[:, None] * strides[2] + channels[None, :] * strides[3]
    return tl.load(cells, mask=valid[:, None] & (channels < CHANNELS)[None, :], other=0.0)


@triton.jit
def _store(tensor, values, head, length, places, valid, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    """Write [places, PADDED] to one head of a contiguous [B, N, L, CHANNELS]."""
    channels = tl.arange(0, PADDED).to(tl.int64)
    cells = (head.to(tl.int64) * length + places)[:, None] * CHANNELS + channels[None, :]
    mask = valid[:, None] & (channels < CHANNELS)[None, :]
    tl.store(tensor + cells, values.to(tensor.dtype.element_ty), mask=mask)


@triton.jit
def _terms(bias, strides, places, valid, lines, size, factor):
    """[places, lines] position terms times ``factor`` for some rows (or columns) of the key map, -inf outside it."""
    inside = (lines < size)[None, :]
    cells = bias + places[:, None] * strides[2] + lines[None, :] * strides[3]
    held = tl.load(cells, mask=valid[:, None] & inside, other=0.0).to(tl.float32)
    return tl.where(inside, held * factor, float("-inf"))


@triton.jit
def _store_terms(gradient, values, head, length, places, valid, lines, size):
    """Write [places, lines] to one head of a contiguous [B, N, L, size]."""
    cells = (head.to(tl.int64) * length + places)[:, None] * size + lines[None, :]
    mask = valid[:, None] & (lines < size)[None, :]
    tl.store(gradient + cells, values.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def _keys(y0, x0, height, width, BLOCK_KEYS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """Places [BLOCK_KEYS] of a tile's cells in the key map, and whether they lie in it."""
    cell = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    y, x = y0 + cell // BLOCK_COLS, x0 + cell % BLOCK_COLS
    return y * width + x, (y < height) & (x < width)


@_tuned
@triton.jit
def forward(
    q, k, v, bias_h, bias_w, out, lse,
    q_strides, k_strides, v_strides, h_strides, w_strides,
    factor, heads, height, width, bucket,
    K: tl.constexpr, V: tl.constexpr, PADDED_K: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK_COLS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """out [B, N, L, V] and lse [B, N, L] of BLOCK_Q queries of one head; ``factor`` is scale / log 2."""
    BLOCK_ROWS: tl.constexpr = BLOCK_KEYS // BLOCK_COLS
    length = height * width
    blocks = tl.cdiv(length, BLOCK_Q)
    head = tl.program_id(0) // blocks
    places = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    valid = places < length
    k, v = _head(k, k_strides, head, heads), _head(v, v_strides, head, heads)
    bias_h, bias_w = _head(bias_h, h_strides, head, heads), _head(bias_w, w_strides, head, heads)
    q_block = _load(_head(q, q_strides, head, heads), q_strides, places, valid, K, PADDED_K)

    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    mixed = tl.zeros([BLOCK_Q, PADDED_V], tl.float32)
    for x0 in range(0, width, BLOCK_COLS):
        columns = (x0 + tl.arange(0, BLOCK_COLS)).to(tl.int64)
        by_column = _terms(bias_w, w_strides, places, valid, columns, width, factor)
        for y0 in range(0, height, BLOCK_ROWS):
            rows = (y0 + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
            by_row = _terms(bias_h, h_strides, places, valid, rows, height, factor)
            keys, inside = _keys(y0, x0, height, width, BLOCK_KEYS, BLOCK_COLS)
            k_tile = _load(k, k_strides, keys, inside, K, PADDED_K)
            v_tile = _load(v, v_strides, keys, inside, V, PADDED_V)
            terms = tl.reshape(by_row[:, :, None] + by_column[:, None, :], [BLOCK_Q, BLOCK_KEYS])
            logits = tl.dot(q_block, tl.trans(k_tile), input_precision=PRECISION) * factor + terms
            higher = tl.maximum(top, tl.max(logits, 1))
            level = tl.where(higher == float("-inf"), 0.0, higher)  # -inf - -inf would be NaN
            weights = tl.exp2(logits - level[:, None])
            shrink = tl.exp2(top - level)
            total = total * shrink + tl.sum(weights, 1)
            mixed = tl.dot(weights.to(v_tile.dtype), v_tile, mixed * shrink[:, None], input_precision=PRECISION)
            top = higher
    _store(out, mixed / total[:, None], head, length, places, valid, V, PADDED_V)
    tl.store(lse + head.to(tl.int64) * length + places, (top + tl.log2(total)) * LN_2, mask=valid)


@_tuned
@triton.jit
def backward_queries(
    q, k, v, bias_h, bias_w, grad, lse, delta, dq, dbias_h, dbias_w,
    q_strides, k_strides, v_strides, h_strides, w_strides, grad_strides,
    share_stride, factor, scale, heads, height, width, bucket,
    K: tl.constexpr, V: tl.constexpr, PADDED_K: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK_COLS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """dq [B, N, L, K], dbias_w [B, N, L, W] and dbias_h of BLOCK_Q queries of one head.

    dbias_h is [parts, B, N, L, H]: one share for each part of BLOCK_COLS columns, so that each number is written once.
    """
    BLOCK_ROWS: tl.constexpr = BLOCK_KEYS // BLOCK_COLS
    length = height * width
    blocks = tl.cdiv(length, BLOCK_Q)
    head = tl.program_id(0) // blocks
    places = (tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)).to(tl.int64)
    valid = places < length
    k, v = _head(k, k_strides, head, heads), _head(v, v_strides, head, heads)
    bias_h, bias_w = _head(bias_h, h_strides, head, heads), _head(bias_w, w_strides, head, heads)
    q_block = _load(_head(q, q_strides, head, heads), q_strides, places, valid, K, PADDED_K)
    grad_block = _load(_head(grad, grad_strides, head, heads), grad_strides, places, valid, V, PADDED_V)
    start = head.to(tl.int64) * length
    level = tl.load(lse + start + places, mask=valid, other=0.0) * LOG2_E
    mean = tl.load(delta + start + places, mask=valid, other=0.0)

    dq_block = tl.zeros([BLOCK_Q, PADDED_K], tl.float32)
    for x0 in range(0, width, BLOCK_COLS):
        columns = (x0 + tl.arange(0, BLOCK_COLS)).to(tl.int64)
        by_column = _terms(bias_w, w_strides, places, valid, columns, width, factor)
        column_sums = tl.zeros([BLOCK_Q, BLOCK_COLS], tl.float32)
        for y0 in range(0, height, BLOCK_ROWS):
            rows = (y0 + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
            by_row = _terms(bias_h, h_strides, places, valid, rows, height, factor)
            keys, inside = _keys(y0, x0, height, width, BLOCK_KEYS, BLOCK_COLS)
            k_tile = _load(k, k_strides, keys, inside, K, PADDED_K)
            v_tile = _load(v, v_strides, keys, inside, V, PADDED_V)
            terms = tl.reshape(by_row[:, :, None] + by_column[:, None, :], [BLOCK_Q, BLOCK_KEYS])
            logits = tl.dot(q_block, tl.trans(k_tile), input_precision=PRECISION) * factor + terms
            weights = tl.exp2(logits - level[:, None])
            dweights = tl.dot(grad_block, tl.trans(v_tile), input_precision=PRECISION)
            dlogits = weights * (dweights - mean[:, None])
            dq_block = tl.dot(dlogits.to(k_tile.dtype), k_tile, dq_block, input_precision=PRECISION)
            cells = tl.reshape(dlogits, [BLOCK_Q, BLOCK_ROWS, BLOCK_COLS])
            column_sums += tl.sum(cells, 1)
            _store_terms(dbias_h, tl.sum(cells, 2) * scale, head, length, places, valid, rows, height)
        _store_terms(dbias_w, column_sums * scale, head, length, places, valid, columns, width)
        dbias_h += share_stride
    _store(dq, dq_block * scale, head, length, places, valid, K, PADDED_K)


@_tuned
@triton.jit
def backward_keys(
    q, k, v, bias_h, bias_w, grad, lse, delta, dk, dv,
    q_strides, k_strides, v_strides, h_strides, w_strides, grad_strides,
    factor, scale, heads, height, width, bucket,
    K: tl.constexpr, V: tl.constexpr, PADDED_K: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK_COLS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_KEYS: tl.constexpr,
):  # fmt: skip
    """dk [B, N, L, K] and dv [B, N, L, V] of one tile of keys of one head; logits are laid out [keys, queries]."""
    BLOCK_ROWS: tl.constexpr = BLOCK_KEYS // BLOCK_COLS
    length = height * width
    parts = tl.cdiv(width, BLOCK_COLS)
    tiles = parts * tl.cdiv(height, BLOCK_ROWS)
    head, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    y0, x0 = tile // parts * BLOCK_ROWS, tile % parts * BLOCK_COLS
    rows = (y0 + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    columns = (x0 + tl.arange(0, BLOCK_COLS)).to(tl.int64)
    keys, inside = _keys(y0, x0, height, width, BLOCK_KEYS, BLOCK_COLS)
    k_tile = _load(_head(k, k_strides, head, heads), k_strides, keys, inside, K, PADDED_K)
    v_tile = _load(_head(v, v_strides, head, heads), v_strides, keys, inside, V, PADDED_V)
    q, grad = _head(q, q_strides, head, heads), _head(grad, grad_strides, head, heads)
    bias_h, bias_w = _head(bias_h, h_strides, head, heads), _head(bias_w, w_strides, head, heads)
    start = head.to(tl.int64) * length

    dk_tile = tl.zeros([BLOCK_KEYS, PADDED_K], tl.float32)
    dv_tile = tl.zeros([BLOCK_KEYS, PADDED_V], tl.float32)
    for first in range(0, length, BLOCK_Q):
        places = (first + tl.arange(0, BLOCK_Q)).to(tl.int64)
        valid = places < length
        q_block = _load(q, q_strides, places, valid, K, PADDED_K)
        grad_block = _load(grad, grad_strides, places, valid, V, PADDED_V)
        # Queries beyond the last get weight exp2(-inf) = 0.
        level = tl.load(lse + start + places, mask=valid, other=float("inf")) * LOG2_E
        mean = tl.load(delta + start + places, mask=valid, other=0.0)
        by_row = tl.trans(_terms(bias_h, h_strides, places, valid, rows, height, factor))
        by_column = tl.trans(_terms(bias_w, w_strides, places, valid, columns, width, factor))
        terms = tl.reshape(by_row[:, None, :] + by_column[None, :, :], [BLOCK_KEYS, BLOCK_Q])
        logits = tl.dot(k_tile, tl.trans(q_block), input_precision=PRECISION) * factor + terms
        weights = tl.exp2(logits - level[None, :])
        dv_tile = tl.dot(weights.to(grad_block.dtype), grad_block, dv_tile, input_precision=PRECISION)
        dweights = tl.dot(v_tile, tl.trans(grad_block), input_precision=PRECISION)
        dlogits = weights * (dweights - mean[None, :])
        dk_tile = tl.dot(dlogits.to(q_block.dtype), q_block, dk_tile, input_precision=PRECISION)
    _store(dk, dk_tile * scale, head, length, keys, inside, K, PADDED_K)
    _store(dv, dv_tile, head, length, keys, inside, V, PADDED_V)
