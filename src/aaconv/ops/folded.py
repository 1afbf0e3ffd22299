"""Positions folded into queries and keys, then PyTorch's fused attention: no (HW)x(HW) tensor where that is fused.

The height term depends on the key's row alone and the width term on its column alone. So a query that carries its
H + W position terms as further channels, against keys whose further channels are the one-hot row and column,
gives the same logits from one ordinary product:

    [q, bias_h, bias_w] . [k, one_hot(row), one_hot(column)] = q . k + bias_h[row] + bias_w[column]

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from aaconv.ops.position_terms import position_terms


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
    scale: float,
) -> Tensor:
    """The contract of ``relative_attention_2d`` on checked arguments: [B, N, L, V]."""
    # The scale is applied to the whole product afterwards. A power of two near it, moved from the one-hot keys to
    # the terms, keeps the terms at the size of the final logits (float16 overflows at 65504) without any rounding.
    shift = 2.0 ** (math.frexp(scale)[1] - 1) if scale else 1.0
    bias_h, bias_w = position_terms(q * shift, rel_h, rel_w, grid)
    queries, keys = [q], [k]
    for term, hot in ((bias_h, _one_hot_rows(k, grid)), (bias_w, _one_hot_columns(k, grid))):
        if term is not None:
            queries.append(term)
            keys.append((hot / shift).expand(*k.shape[:2], -1, -1))
    # Fused kernels want one width for queries, keys and values; on GPUs a multiple of 8.
    channels = max(sum(part.shape[-1] for part in queries), v.shape[-1])
    channels = -(-channels // 8) * 8 if q.is_cuda else channels
    wide_q, wide_k, wide_v = (_widen(x, channels) for x in (torch.cat(queries, dim=-1), torch.cat(keys, dim=-1), v))
    attended = F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=scale)
    # The CPU kernel takes a query that is not finite for a masked one and answers 0: put the NaN back.
    return attended[..., : v.shape[-1]] + (wide_q.detach() * 0).sum(dim=-1, keepdim=True)


def extra_bytes(q: Tensor, v: Tensor, grid: tuple[int, int]) -> int:
    """Memory of the widened queries, keys, values and output, in bytes."""
    batch, heads, length, channels = q.shape
    return 4 * batch * heads * length * max(channels + sum(grid), v.shape[-1]) * q.element_size()


def _one_hot_rows(like: Tensor, grid: tuple[int, int]) -> Tensor:
    """[L, H]: 1 in the column of each position's row."""
    eye = torch.eye(grid[0], device=like.device, dtype=like.dtype)
    return eye[:, None].expand(*grid, grid[0]).flatten(0, 1)


def _one_hot_columns(like: Tensor, grid: tuple[int, int]) -> Tensor:
    """[L, W]: 1 in the column of each position's column."""
    eye = torch.eye(grid[1], device=like.device, dtype=like.dtype)
    return eye.expand(*grid, grid[1]).flatten(0, 1)


def _widen(x: Tensor, channels: int) -> Tensor:
    """Zero channels appended up to ``channels``."""
    return F.pad(x, (0, channels - x.shape[-1])) if x.shape[-1] < channels else x
