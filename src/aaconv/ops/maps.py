"""Attention weights of chosen query positions, exact, without the (HW)x(HW) tensor.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key channels a head, Q chosen queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aaconv.ops.autocast import no_autocast
from aaconv.ops.memory import expect_memory
from aaconv.ops.reference import attention_weights, weights_bytes
from aaconv.ops.relative_attention import check_arguments, resolve_scale


def attention_maps_2d(
    q: Tensor,
    k: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    *,
    grid: Sequence[int],
    queries: Tensor | Sequence[int],
    scale: float | None = None,
) -> Tensor:
    """Where the chosen queries look: the softmax weights that ``relative_attention_2d`` gives the values.

    Args:
        q: Queries, [B, N, L, K].
        k: Keys, [B, N, L, K].
        rel_h: Vertical offsets, key minus query, [2H-1, K], or None.
        rel_w: Horizontal offsets, [2W-1, K], or None.
        grid: (H, W) in cells; positions are numbered row by row.
        queries: Flat positions ``y * W + x`` of the queries wanted, ints [Q], each in 0..L-1.
        scale: Factor on the whole logit; None means ``K ** -0.5``.

    Returns:
        Weights, [B, N, Q, H, W], each map summing to 1, in float32 (float64 for float64 inputs).
        Memory grows with Q * L, not with L * L.

    Raises:
        TypeError: An argument is no tensor, or ``queries`` or ``grid`` hold no ints.
        ValueError: A shape, dtype or device does not fit, a query lies outside the grid, or the free memory would
            not suffice; the message says how much it would take.

    Source:
        Bello et al. 2019, arXiv:1904.09925, section 3.2 and appendix (attention maps).
    """
    size = check_arguments(q, k, rel_h, rel_w, grid)
    wanted = torch.as_tensor(queries, device=q.device)
    if wanted.dim() != 1:
        raise ValueError(f"queries must have shape [Q], got {list(wanted.shape)}")
    if wanted.numel() == 0:
        wanted = wanted.long()
    if wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool:
        raise TypeError(f"queries must be ints, got dtype={wanted.dtype}")
    if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < size[0] * size[1]:
        outside = wanted[(wanted < 0) | (wanted >= size[0] * size[1])].tolist()
        raise ValueError(f"queries must lie in 0..{size[0] * size[1] - 1} (H*W - 1), got {outside[:5]}")
    if not torch.compiler.is_compiling():
        what = f"attention maps of {len(wanted)} queries on a map of {size}"
        expect_memory(weights_bytes(q, len(wanted)), q, what, "ask for fewer queries at a time")
    factor = resolve_scale(scale, q.shape[-1])
    with no_autocast(q.device.type):
        weights = attention_weights(q, k, rel_h, rel_w, size, factor, wanted.long())
    return weights.unflatten(-1, size)
