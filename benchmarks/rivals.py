"""What others do for the same attention, on the same arguments as ``relative_attention_2d``.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from torch import Tensor
from torch.nn import functional as F

from aaconv.ops.position_terms import position_terms


def materialised(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """The formula with every [B, N, L, L] tensor in memory."""
    logits = q @ k.transpose(-1, -2) + _bias(q, rel_h, rel_w, grid)
    return (logits * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def broadcast(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Decomposed terms added by broadcasting, the form of segment-anything backbones."""
    bias_h, bias_w = position_terms(q, rel_h, rel_w, grid)
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).unflatten(-1, grid)
    scale = q.shape[-1] ** -0.5
    scores = scores + scale * bias_h[..., :, None] + scale * bias_w[..., None, :]
    return scores.flatten(-2).softmax(dim=-1) @ v


def sdpa_with_bias(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """PyTorch's fused attention with the whole bias as its mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_bias(q, rel_h, rel_w, grid) * q.shape[-1] ** -0.5)


def _bias(q: Tensor, rel_h: Tensor, rel_w: Tensor, grid: tuple[int, int]) -> Tensor:
    bias_h, bias_w = position_terms(q, rel_h, rel_w, grid)
    return (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2)


RIVALS = {"materialised": materialised, "broadcast": broadcast, "sdpa with bias": sdpa_with_bias}
