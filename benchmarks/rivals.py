"""What others do for the same attention, on the same arguments as ``relative_attention_2d``.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aaconv.ops.position_terms import position_terms

Attend = Callable[..., Tensor]


def materialised(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """The formula with every [B, N, L, L] tensor in memory."""
    logits = q @ k.transpose(-1, -2) + _bias(q, rel_h, rel_w, grid)
    return (logits * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def broadcast(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Decomposed terms added by broadcasting, the form of segment-anything backbones."""
    q = q * q.shape[-1] ** -0.5
    bias_h, bias_w = position_terms(q, rel_h, rel_w, grid)
    scores = (q @ k.transpose(-1, -2)).unflatten(-1, grid) + bias_h[..., :, None] + bias_w[..., None, :]
    return scores.flatten(-2).softmax(dim=-1) @ v


def sdpa_with_bias(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """PyTorch's fused attention with the whole bias as its mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_bias(q, rel_h, rel_w, grid) * q.shape[-1] ** -0.5)


def timm_positions(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """timm's ``rel_logits_1d`` for both axes, as its ``BottleneckAttn`` applies it."""
    from timm.layers.bottleneck_attn import rel_logits_1d

    (height, width), scale = grid, q.shape[-1] ** -0.5
    cells = (q * scale).flatten(0, 1).unflatten(1, grid)  # [B*N, H, W, K]
    by_width = rel_logits_1d(cells, rel_w, permute_mask=(0, 1, 3, 2, 4))
    by_height = rel_logits_1d(cells.transpose(1, 2), rel_h, permute_mask=(0, 3, 1, 4, 2))
    positions = (by_height + by_width).reshape(*q.shape[:2], height * width, height * width)
    return ((q * scale) @ k.transpose(-1, -2) + positions).softmax(dim=-1) @ v


def _bias(q: Tensor, rel_h: Tensor, rel_w: Tensor, grid: tuple[int, int]) -> Tensor:
    bias_h, bias_w = position_terms(q, rel_h, rel_w, grid)
    return (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2)


def flex(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """FlexAttention that captures the decomposed terms; its kernel wants head sizes that are powers of two from 16."""
    width, scale = grid[1], q.shape[-1] ** -0.5
    bias_h, bias_w = position_terms(q * scale, rel_h, rel_w, grid)

    def score(score: Tensor, b: Tensor, n: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + bias_h[b, n, query, key // width] + bias_w[b, n, query, key % width]

    padded = (_padded(x) for x in (q, k, v))
    return _flex_attention(q.is_cuda)(*padded, score_mod=score, scale=scale)[..., : v.shape[-1]]


def _padded(x: Tensor) -> Tensor:
    size = max(16, 1 << (x.shape[-1] - 1).bit_length())
    return F.pad(x, (0, size - x.shape[-1]))


@cache
def _flex_attention(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # Sizes that change would compile anew for each; without the compiler it stores every pair.
    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention


def memory_efficient(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """The same as ``sdpa_with_bias`` on the memory-efficient kernel, which wants rows of the bias in steps of 8."""
    scale, length = q.shape[-1] ** -0.5, q.shape[2]
    bias = F.pad(_bias(q, rel_h, rel_w, grid) * scale, (0, -length % 8))[..., :length]
    padded = (_padded(x) for x in (q, k, v))
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return F.scaled_dot_product_attention(*padded, attn_mask=bias, scale=scale)[..., : v.shape[-1]]


RIVALS: dict[str, Attend] = {
    "materialised": materialised,
    "timm positions": timm_positions,
    "broadcast": broadcast,
    "broadcast, compiled": torch.compile(broadcast),
    "SDPA with bias": sdpa_with_bias,
}
# FlexAttention has no backward pass on the CPU; the memory-efficient kernel does not exist there.
GPU_RIVALS: dict[str, Attend] = {"FlexAttention": flex, "memory-efficient with bias": memory_efficient}


def rivals_on(device: torch.device) -> dict[str, Attend]:
    """What others have for tensors on ``device``."""
    return RIVALS | (GPU_RIVALS if device.type == "cuda" else {})
