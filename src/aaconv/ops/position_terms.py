"""What each query scores every key row and every key column by, from the tables of offsets.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key channels a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def position_terms(
    q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, grid: tuple[int, int]
) -> tuple[Tensor | None, Tensor | None]:
    """The position part of the logits, decomposed by axis and not scaled.

    Returns:
        bias_h [B, N, L, H] with ``q_i . rel_h[row - iy + H - 1]``, and bias_w [B, N, L, W] with
        ``q_i . rel_w[column - ix + W - 1]``; None where the table is None.
    """
    height, width = grid
    cells = q.unflatten(2, (height, width))
    bias_h = bias_w = None
    if rel_h is not None:
        bias_h = torch.einsum("bnyxk,yjk->bnyxj", cells, by_pair(rel_h.to(q.dtype), height)).flatten(2, 3)
    if rel_w is not None:
        bias_w = torch.einsum("bnyxk,xjk->bnyxj", cells, by_pair(rel_w.to(q.dtype), width)).flatten(2, 3)
    return bias_h, bias_w


def dense_terms(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The same with zeros, which take no memory, in the place of None."""
    found = zip(position_terms(q, rel_h, rel_w, grid), grid, strict=True)
    nothing = q.new_zeros(())
    bias_h, bias_w = (nothing.expand(*q.shape[:3], edge) if term is None else term for term, edge in found)
    return bias_h, bias_w


def by_pair(table: Tensor, size: int) -> Tensor:
    """Rows of offsets [2*size-1, K] laid out as [query, key, K]; offsets are key minus query."""
    place = torch.arange(size, device=table.device)
    return table[place[None, :] - place[:, None] + size - 1]
