"""Decomposed attention on a GPU, by the Triton kernels of ``cuda_kernels.py``.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

# Asked once, while nothing is being traced.
MISSING = None if find_spec("triton") else "Triton is not installed: pip install triton"
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

COLUMN_CAP = 32  # columns of a tile of keys at most, a power of two: no tile has fewer keys
CHANNEL_CAP = 256  # key or value channels at most: float32 then fills 98 KiB of shared memory, a small GPU has 99


def unsupported_reason(q: Tensor, v: Tensor) -> str | None:
    """None when the kernels can run on tensors like ``q`` and ``v``, else one line saying why not."""
    if q.device.type != "cuda" and not (q.device.type == "cpu" and _interpreted()):
        return f"it needs tensors on a CUDA device, got device={q.device}"
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it takes float32, bfloat16 or float16, got dtype={q.dtype}"
    if (channels := max(q.shape[-1], v.shape[-1])) > CHANNEL_CAP:
        return f"it takes up to {CHANNEL_CAP} channels a head, got {channels}"
    return MISSING


def _interpreted() -> bool:
    """Whether Triton's interpreter, which takes tensors on the CPU, is on; asks without importing Triton."""
    if (triton := sys.modules.get("triton")) is not None:
        return bool(triton.knobs.runtime.interpret)
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def forward(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attended values [B, N, L, V] in the dtype of ``v`` and log-sum-exp [B, N, L] of the logits in float32

    ``scale * (q_i . k_j + bias_h[row of j] + bias_w[column of j])``.

    Args:
        q, k, v: [B, N, L, K], [B, N, L, K], [B, N, L, V], any strides.
        bias_h, bias_w: [B, N, L, H], [B, N, L, W], any strides; their dtype may be another one than that of ``q``.
    """
    from aaconv.ops import cuda_kernels

    batch, heads, length, _ = q.shape
    out = torch.empty(batch, heads, length, v.shape[3], dtype=v.dtype, device=v.device)
    lse = torch.empty(batch, heads, length, dtype=torch.float32, device=q.device)
    if batch * heads == 0:
        return out, lse
    inputs = q, k, v, bias_h, bias_w
    with _on(q.device):
        cuda_kernels.forward[_by_queries(q)](
            *inputs, out, lse, *_strides(*inputs), scale / math.log(2), *_sizes(*inputs), **_choices(*inputs)
        )
    return out, lse


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
    from aaconv.ops import cuda_kernels

    inputs = q, k, v, bias_h, bias_w
    dq, dk, dv, dbias_h, dbias_w = grads = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in inputs)
    batch, heads = q.shape[:2]
    if batch * heads == 0:
        return grads  # type: ignore[return-value]
    delta = (grad.float() * out.float()).sum(dim=-1).contiguous()
    choices = _choices(*inputs)
    parts = -(-bias_w.shape[3] // choices["BLOCK_COLS"])
    # A tile of part of the columns knows part of a row's sum: the parts are added up afterwards, in a fixed order.
    shares = dbias_h[None] if parts == 1 else torch.empty(parts, *dbias_h.shape, device=q.device)
    arrays = *inputs, grad, lse.contiguous(), delta
    strides = _strides(*inputs, grad)
    factor = scale / math.log(2)
    with _on(q.device):
        cuda_kernels.backward_queries[_by_queries(q)](
            *arrays, dq, shares, dbias_w, *strides, shares.stride(0), factor, scale, *_sizes(*inputs), **choices
        )
        cuda_kernels.backward_keys[_by_keys(bias_h, bias_w)](
            *arrays, dk, dv, *strides, factor, scale, *_sizes(*inputs), **choices
        )
    return dq, dk, dv, dbias_h if parts == 1 else shares.sum(dim=0).to(bias_h.dtype), dbias_w


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _by_queries(q: Tensor) -> Callable[[dict[str, int]], tuple[int]]:
    """Programs of a kernel that runs over blocks of queries; one axis, because the others end at 65535."""
    batch, heads, length, _ = q.shape
    return lambda blocks: (batch * heads * -(-length // blocks["BLOCK_Q"]),)


def _by_keys(bias_h: Tensor, bias_w: Tensor) -> Callable[[dict[str, int]], tuple[int]]:
    """Programs of a kernel that runs over tiles of keys."""
    batch, heads, _, height = bias_h.shape
    width = bias_w.shape[3]

    def programs(blocks: dict[str, int]) -> tuple[int]:
        columns = blocks["BLOCK_COLS"]
        return (batch * heads * -(-height // (blocks["BLOCK_KEYS"] // columns)) * -(-width // columns),)

    return programs


def _strides(*tensors: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(t.stride() for t in tensors)


def _sizes(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> tuple[int, int, int, int]:
    """N, H, W and the power of two that stands for L where tiles are tuned."""
    return q.shape[1], bias_h.shape[3], bias_w.shape[3], _power_of_two(q.shape[2])


def _choices(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor) -> dict[str, Any]:
    """What a kernel is compiled for; matrix products want at least 16 channels."""
    key, value = q.shape[3], v.shape[3]
    # Legacy and new switches for TensorFloat-32 both show here; reading the legacy one raises after the new was set.
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return {
        "K": key,
        "V": value,
        "PADDED_K": max(16, _power_of_two(key)),
        "PADDED_V": max(16, _power_of_two(value)),
        "BLOCK_COLS": min(COLUMN_CAP, _power_of_two(bias_w.shape[3])),
        "PRECISION": "tf32" if tf32 else "ieee",
        "enable_fp_fusion": True,  # Triton is about to change the default
    }


def _power_of_two(size: int) -> int:
    """The next power of two, at least 1."""
    return 1 << max(0, size - 1).bit_length()
