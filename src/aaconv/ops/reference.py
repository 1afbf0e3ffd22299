"""The definition: the paper's formula, any device, slow, stores every logit.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head, Q chosen queries.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_weights(
    q: Tensor,
    k: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
    scale: float,
    queries: Tensor | None = None,
) -> Tensor:
    """Softmax over all keys of ``scale * q_i . (k_j + rel_w[jx - ix] + rel_h[jy - iy])``.

    Args:
        q, k: Queries and keys, [B, N, L, K].
        rel_h, rel_w: Tables of offsets, [2H-1, K] and [2W-1, K], or None.
        queries: Flat positions of the queries wanted, [Q]; None means all L of them.

    Returns:
        Weights in at least float32, [B, N, Q, L].
    """
    height, width = grid
    wide = torch.promote_types(q.dtype, torch.float32)
    key = torch.arange(height * width, device=q.device)
    query = key if queries is None else queries
    q, k = q[:, :, query].to(wide) * scale, k.to(wide)

    logits = q @ k.transpose(-1, -2)  # q_i . k_j
    each = torch.arange(len(query), device=q.device)[:, None]
    if rel_w is not None:  # q_i . r_W[jx - ix]: one product for every offset, then the offset of each pair
        offset = key % width - (query % width)[:, None]
        logits = logits + (q @ rel_w.to(wide).T)[:, :, each, offset + width - 1]
    if rel_h is not None:  # q_i . r_H[jy - iy]
        offset = key // width - (query // width)[:, None]
        logits = logits + (q @ rel_h.to(wide).T)[:, :, each, offset + height - 1]
    return torch.softmax(logits, dim=-1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
    scale: float,
) -> Tensor:
    """``weights @ v``, [B, N, L, V]."""
    weights = attention_weights(q, k, rel_h, rel_w, grid, scale)
    return (weights @ v.to(weights.dtype)).to(v.dtype)


def extra_bytes(q: Tensor, v: Tensor, grid: tuple[int, int]) -> int:
    """Memory of all weights on the way, in bytes."""
    return weights_bytes(q, q.shape[2])


def weights_bytes(q: Tensor, queries: int) -> int:
    """Memory that ``attention_weights`` takes for so many queries: logits, position terms and weights, and offsets."""
    batch, heads, length, _ = q.shape
    return (4 * batch * heads * max(q.element_size(), 4) + 16) * queries * length
