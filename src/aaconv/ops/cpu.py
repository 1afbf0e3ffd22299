"""Decomposed attention on the CPU, by the Numba kernels of ``cpu_kernels.py``.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    if q.device.type not in ("cpu", "meta"):
        return f"it needs tensors on the CPU, got device={q.device}"
    return MISSING


def forward(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attended values [B, N, L, V] in the dtype of ``v`` and log-sum-exp [B, N, L] of the logits

    ``scale * (q_i . k_j + bias_h[row of j] + bias_w[column of j])``.

    Args:
        q, k, v: [B, N, L, K], [B, N, L, K], [B, N, L, V].
        bias_h, bias_w: [B, N, L, H], [B, N, L, W].
    """
    from aaconv.ops import cpu_kernels

    q, k, v, bias_h, bias_w, dtype = *_widened(q, k, v, bias_h, bias_w), v.dtype
    batch, heads, length, _ = q.shape
    out, lse = q.new_empty(batch, heads, length, v.shape[3]), q.new_empty(batch, heads, length)
    kernel = cpu_kernels.compiled(cpu_kernels.forward, torch.finfo(q.dtype).bits)
    arguments = _arguments(q, k, v, bias_h, bias_w, scale)
    results = _array(out), _array(lse)
    blocks = batch * heads * -(-length // 4)

    def share(start: int, stop: int) -> None:
        kernel(*arguments, *results, start, stop)

    run_shares(share, blocks, _shares(batch * heads * length**2))
    return out.to(dtype), lse


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

    dtypes = [t.dtype for t in (q, k, v, bias_h, bias_w)]
    q, k, v, bias_h, bias_w, grad, out = _widened(q, k, v, bias_h, bias_w, grad, out)
    batch, heads, length, _ = q.shape
    # With fewer heads than threads the queries of a head are shared out too, each share with its own dk and dv.
    shares = _shares(batch * heads * length**2)
    parts = max(1, min(-(-length // 4), -(-shares // max(1, batch * heads))))
    delta = (grad * out).sum(dim=-1)
    dq, dbias_h, dbias_w = (x.new_empty(x.shape) for x in (q, bias_h, bias_w))
    dk, dv = (x.new_empty(parts, *x.shape) for x in (k, v))
    kernel = cpu_kernels.compiled(cpu_kernels.backward, torch.finfo(q.dtype).bits)
    arguments = *_arguments(q, k, v, bias_h, bias_w, scale), _array(lse), _array(grad), _array(delta)
    dq_, dk_, dv_, dh_, dw_ = (_array(x) for x in (dq, dk, dv, dbias_h, dbias_w))

    def share(start: int, stop: int) -> None:
        for task in range(start, stop):
            head, part = task // parts, task % parts
            kernel(*arguments, dq_, dk_[part], dv_[part], dh_, dw_, part, parts, head, head + 1)

    run_shares(share, batch * heads * parts, shares)
    grads = dq, dk.sum(dim=0), dv.sum(dim=0), dbias_h, dbias_w
    return tuple(g.to(dtype) for g, dtype in zip(grads, dtypes, strict=True))  # type: ignore[return-value]


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """float64 as it is, everything else in float32."""
    return tuple(t if t.dtype == torch.float64 else t.float() for t in tensors)


def _shares(pairs: int) -> int:
    """How many ways to split the work: one below what starting threads costs, a few a thread above."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 or pairs < 200_000 else 4 * threads


def _arguments(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> tuple[Any, ...]:
    arrays = tuple(_array(t) for t in (q, k, v, bias_h, bias_w))
    return *arrays, arrays[0].dtype.type(scale), _tiles(bias_h.shape[3], bias_w.shape[3])


def _array(t: Tensor) -> np.ndarray:
    return t.detach().numpy()


@cache
def _tiles(height: int, width: int) -> np.ndarray:
    """Tiles of the key map, (first row, rows, first column, columns, map width) each: whole rows, or parts of one."""
    from aaconv.ops.cpu_vectors import TILE

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
