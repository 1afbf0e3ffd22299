"""Decomposed attention on the CPU, by the Numba kernels of ``cpu_kernels.py``.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aaconv.ops.position_terms import dense_terms
from aaconv.ops.threads import run_shares


def _missing_numba() -> str | None:
    if find_spec("numba") is None:
        return "Numba is not installed: pip install numba"
    off = os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"
    return "Numba's compiler is switched off (NUMBA_DISABLE_JIT)" if off else None


MISSING = _missing_numba()  # asked once, while nothing is being traced
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def unsupported_reason(q: Tensor, v: Tensor) -> str | None:
    """None when the kernels can run on tensors like ``q`` and ``v``, else one line saying why not."""
    if q.device.type == "meta":
        return None  # there nothing is computed
    return MISSING if q.device.type == "cpu" else f"it needs tensors on the CPU, got device={q.device}"


def forward(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attended values [B, N, L, V] in the dtype of ``v`` and, in float64, log-sum-exp [B, N, L] of the logits

    ``scale * (q_i . k_j + bias_h[row of j] + bias_w[column of j])``.

    Args:
        q, k, v: [B, N, L, K], [B, N, L, K], [B, N, L, V].
        bias_h, bias_w: [B, N, L, H], [B, N, L, W].
    """
    return _forward(q, k, v, bias_h, bias_w, None, scale)


def forward_from_tables(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, grid: tuple[int, int], scale: float
) -> Tensor:
    """Attended values of ``relative_attention_2d``, the position terms computed in passing: [B, N, L, V]."""
    from aaconv.ops.cpu_code import LANES, ROW

    if 2 * max(grid) + LANES > ROW:  # all offsets of an axis have to fit a row of scratch
        return forward(q, k, v, *dense_terms(q, rel_h, rel_w, grid), scale)[0]
    dtype = torch.promote_types(q.dtype, torch.float32)
    tables = torch.zeros(2, q.shape[3], ROW, dtype=dtype)
    for packed, table in zip(tables, (rel_h, rel_w), strict=True):
        if table is not None:
            packed[:, : len(table)] = table.mT
    height, width = (q.new_empty(0, 0, 0, edge, dtype=dtype) for edge in grid)
    return _forward(q, k, v, height, width, tables, scale)[0]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, tables: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    from aaconv.ops import cpu_kernels

    batch, heads, length, _ = q.shape
    out, lse = _empty(q, *v.mT.shape), q.new_empty(batch, heads, length, dtype=torch.float64)
    *arrays, factor, tiles = _arguments(q, k, v, bias_h, bias_w, scale)
    arguments = *arrays, (out.new_empty(0, 0, 0) if tables is None else tables).numpy(), factor, tiles
    ends = _ends(cpu_kernels.forward_parts, q.shape[3], v.shape[3], bias_h.shape[3], bias_w.shape[3])
    results = out.numpy(), lse.numpy()
    kernel = cpu_kernels.compiled(cpu_kernels.forward, torch.finfo(out.dtype).bits)

    def share(start: int, stop: int) -> None:
        kernel(*arguments, *_scratch(ends, out.dtype), *results, start, stop)

    run_shares(share, batch * heads * -(-length // 4), _shares(batch * heads * length**2))
    return out.mT.to(v.dtype), lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias_h: Tensor,
    bias_w: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> Gradients:
    """Gradients of q, k, v, bias_h and bias_w, each in its tensor's dtype, from the gradient of the output."""
    from aaconv.ops import cpu_kernels

    batch, heads, length, _ = q.shape
    # With fewer heads than threads the queries of a head are shared out too, each share with its own dk and dv.
    shares = _shares(batch * heads * length**2)
    parts = max(1, min(-(-length // 4), -(-shares // max(1, batch * heads))))
    delta = (_widened(grad) * _widened(out)).sum(dim=-1)
    dq, dk, dv = (_empty(q, *n, *x.mT.shape) for n, x in (((), q), ((parts,), k), ((parts,), v)))
    dbias_h, dbias_w = _empty(q, *bias_h.shape), _empty(q, *bias_w.shape)
    arguments = _arguments(q, k, v, bias_h, bias_w, scale)
    ends = _ends(cpu_kernels.backward_parts, q.shape[3], v.shape[3], bias_h.shape[3], bias_w.shape[3])
    upstream = lse.numpy(), _channels_first(grad), delta.numpy()
    dq_, dk_, dv_, dh_, dw_ = (x.numpy() for x in (dq, dk, dv, dbias_h, dbias_w))
    kernel = cpu_kernels.compiled(cpu_kernels.backward, torch.finfo(dq.dtype).bits)

    def share(start: int, stop: int) -> None:
        scratch = _scratch(ends, dq.dtype)
        for task in range(start, stop):
            head, part = task // parts, task % parts
            kernel(*arguments, *scratch, *upstream, dq_, dk_[part], dv_[part], dh_, dw_, part, parts, head)

    run_shares(share, batch * heads * parts, shares)
    grads = dq.mT, dk.sum(dim=0).mT, dv.sum(dim=0).mT, dbias_h, dbias_w
    return tuple(g.to(x.dtype) for g, x in zip(grads, (q, k, v, bias_h, bias_w), strict=True))  # type: ignore[return-value]


def _arguments(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> tuple[Any, ...]:
    """What both kernels begin with."""
    arrays = *map(_channels_first, (q, k, v)), *(_widened(t).contiguous().numpy() for t in (bias_h, bias_w))
    return *arrays, arrays[0].dtype.type(scale), _tiles(bias_h.shape[3], bias_w.shape[3])


def _channels_first(t: Tensor) -> np.ndarray:
    """[B, N, L, channels] -> [B, N, channels, L], in memory in this order, as the layer's tensors are already."""
    return _widened(t).mT.contiguous().numpy()


def _widened(t: Tensor) -> Tensor:
    """float64 as it is, everything else in float32."""
    return t.detach() if t.dtype == torch.float64 else t.detach().float()


def _empty(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _shares(pairs: int) -> int:
    """How many ways to split the work: one below what starting threads costs, a few a thread for large work."""
    threads = torch.get_num_threads()
    if threads == 1 or pairs < 50_000:
        return 1
    return threads if pairs < 1_000_000 else 4 * threads


@cache
def _ends(parts: Callable[..., tuple[int, ...]], channels: int, values: int, height: int, width: int) -> np.ndarray:
    """Where the parts of a share's scratch end."""
    return np.cumsum(parts(channels, values, height, width, len(_tiles(height, width))), dtype=np.int64)


def _scratch(ends: np.ndarray, dtype: torch.dtype) -> tuple[np.ndarray, ...]:
    """For one share: zeros from the start of a cache line, where their parts end, and four pairs of integers."""
    raw = np.zeros(ends[-1] + 64, np.float64 if dtype == torch.float64 else np.float32)
    skip = -raw.ctypes.data % 64 // raw.itemsize
    return raw[skip : skip + ends[-1]], ends, np.zeros((4, 2), np.int64)


@cache
def _tiles(height: int, width: int) -> np.ndarray:
    """Tiles of the key map, (first row, rows, first column, columns, map width) each: whole rows, or parts of one."""
    from aaconv.ops.cpu_code import TILE

    columns = min(width, TILE)
    rows = min(height, TILE // columns)
    return np.array(
        [
            (y, min(rows, height - y), x, min(columns, width - x), width)
            for y in range(0, height, rows)
            for x in range(0, width, columns)
        ],
        dtype=np.int64,
    )
