"""The public operation: its contract, the checks, and the choice of implementation.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aaconv._checks import expect_one_of, expect_pair, expect_shape
from aaconv.ops import cpu, cuda, decomposed, folded, reference
from aaconv.ops.autocast import cast_arguments, no_autocast
from aaconv.ops.memory import expect_memory


@dataclass(frozen=True)
class Implementation:
    """One way to compute the operation on checked arguments."""

    attend: Callable[..., Tensor]  # (q, k, v, rel_h, rel_w, grid, scale) -> [B, N, L, V]
    extra_bytes: Callable[[Tensor, Tensor, tuple[int, int]], int]  # (q, v, grid) -> memory beside the inputs
    unsupported_reason: Callable[[Tensor, Tensor], str | None] = lambda q, v: None  # why it cannot run on (q, v)


IMPLEMENTATIONS = {
    "reference": Implementation(reference.attend, reference.extra_bytes),
    "folded": Implementation(folded.attend, folded.extra_bytes),
    "cpu": Implementation(decomposed.attend, decomposed.extra_bytes, cpu.unsupported_reason),
    "cuda": Implementation(decomposed.attend, decomposed.extra_bytes, cuda.unsupported_reason),
}
IMPL_NAMES = ("auto", *IMPLEMENTATIONS)


def relative_attention_2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    *,
    grid: Sequence[int],
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Attend from every grid position to every other, scoring content and relative offset.

    For query i at (iy, ix) and key j at (jy, jx)::

        logit[i, j] = scale * q[i] . (k[j] + rel_h[jy - iy + H - 1] + rel_w[jx - ix + W - 1])

    and the result is ``softmax_j(logit) @ v``.

    Args:
        q: Queries, [B, N, L, K].
        k: Keys, [B, N, L, K].
        v: Values, [B, N, L, V].
        rel_h: One vector for each vertical offset -(H-1)..H-1 (in grid cells, key minus query), [2H-1, K], shared
            by all heads; None leaves the term out.
        rel_w: The same for horizontal offsets, [2W-1, K], or None.
        grid: (H, W) in cells; positions are numbered row by row.
        scale: Factor on the whole logit; None means ``K ** -0.5``.
        impl: "auto" chooses; "reference" is the definition and stores every logit; "folded" uses PyTorch's fused
            attention and memory linear in L wherever that is fused (CPU; CUDA); "cpu" and "cuda" run our compiled
            kernels, with memory linear in L. None is swapped for another: what cannot run raises.

    Returns:
        Attended values, [B, N, L, V], in the dtype of ``v``, under autocast in autocast's.

    Raises:
        TypeError: An argument is no tensor, or ``grid`` holds no ints.
        ValueError: A shape, dtype or device does not fit, ``impl`` is unknown or cannot run, or the memory that is free
            would not suffice; the message says how much it would take.

    Source:
        Bello et al. 2019, arXiv:1904.09925, section 3.2: K is d_k / N_h, V is d_v / N_h. We differ only in taking
        ``scale`` and tables that may be None.
    """
    size = check_arguments(q, k, rel_h, rel_w, grid)
    expect_shape("v", v, [*q.shape[:3], "V"])
    _expect_same("v", v, q)
    chosen = _choose(expect_one_of("impl", impl, IMPL_NAMES), q, v)
    if not torch.compiler.is_compiling():  # sizes may be symbols there, which a comparison would pin down
        remedy = "use a smaller map (pool=2), a smaller batch or, for 'reference', impl='folded'"
        expect_memory(chosen.extra_bytes(q, v, size), q, f"attention over a map of {size} ({impl=})", remedy)
    factor = resolve_scale(scale, q.shape[-1])
    tensors = cast_arguments(q.device.type, q, k, v, rel_h, rel_w)
    with no_autocast(q.device.type):
        return chosen.attend(*tensors, size, factor)


def check_arguments(
    q: Tensor, k: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, grid: Sequence[int]
) -> tuple[int, int]:
    """Check what all operations on queries and keys share; the grid as two ints."""
    expect_shape("q", q, ["B", "N", "L", "K"])
    if q.shape[-1] < 1:
        raise ValueError(f"q must have at least one channel a head (K), got shape {list(q.shape)}")
    expect_shape("k", k, q.shape)
    _expect_same("k", k, q)
    if isinstance(grid, int):
        raise TypeError(f"grid must be two ints (H, W), got {grid!r}")
    height, width = grid if any(isinstance(edge, torch.SymInt) for edge in grid) else expect_pair("grid", grid)
    if height * width != q.shape[2]:
        raise ValueError(f"grid (H, W) must hold L={q.shape[2]} positions, got {height}x{width}={height * width}")
    for name, table, rows in (("rel_h", rel_h, 2 * height - 1), ("rel_w", rel_w, 2 * width - 1)):
        if table is not None:
            expect_shape(name, table, [rows, q.shape[-1]])
            if table.device != q.device:
                raise ValueError(f"{name} must be on the device of q ({q.device}), got {table.device}")
    return height, width


def resolve_scale(scale: float | None, channels: int) -> float:
    """The factor on the logits: ``scale``, or K ** -0.5 for None."""
    if scale is None:
        return channels**-0.5
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got scale={scale}")
    return float(scale)


def _choose(impl: str, q: Tensor, v: Tensor) -> Implementation:
    """The implementation asked for, or what "auto" stands for on tensors like ``q`` and ``v``."""
    if impl == "auto":
        kernels = q.device.type if q.device.type in ("cpu", "cuda") else "folded"
        # Exported programs hold PyTorch's own operators.
        impl = "folded" if _exporting() or IMPLEMENTATIONS[kernels].unsupported_reason(q, v) else kernels
    chosen = IMPLEMENTATIONS[impl]
    if reason := chosen.unsupported_reason(q, v):
        raise ValueError(f"{impl=} cannot run: {reason}; impl='auto' takes what can")
    return chosen


def _exporting() -> bool:
    """Asked outside of the compiler's tracing, in which torch 2.11 says yes to whatever is compiled."""
    return torch.compiler.is_exporting()


# As torch.compiler.assume_constant_result marks it, which imports the compiler: that takes longer than torch itself.
_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _expect_same(name: str, tensor: Tensor, q: Tensor) -> None:
    if tensor.dtype != q.dtype:
        raise ValueError(f"{name} must have the dtype of q ({q.dtype}), got {tensor.dtype}")
    if tensor.device != q.device:
        raise ValueError(f"{name} must be on the device of q ({q.device}), got {tensor.device}")
