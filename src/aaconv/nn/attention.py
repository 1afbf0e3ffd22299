"""Multi-head attention over a feature map: the attention branch of the augmented convolution.

Letters: B batch, C input channels, H W attention grid, L = H*W, N heads (the paper's N_h), K and V key and value
channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aaconv._checks import expect_divisible, expect_int, expect_one_of, expect_pair
from aaconv.nn.position import RelativePosition2d, create_position
from aaconv.ops.maps import attention_maps_2d
from aaconv.ops.relative_attention import IMPL_NAMES, relative_attention_2d

PARTS = ("both", "content", "position")  # of the logits


class Projection(NamedTuple):
    """What the attention operation is called with."""

    q: Tensor  # [B, N, L, K]
    k: Tensor  # [B, N, L, K]
    v: Tensor  # [B, N, L, V]
    rel_h: Tensor | None  # [2H-1, K]
    rel_w: Tensor | None  # [2W-1, K]
    grid: tuple[int, int]  # (H, W)


class Attention2d(nn.Module):
    """Self-attention of every cell of a map to every other.

    Queries, keys and values are one 1x1 convolution of the input, the heads' results are concatenated along
    channels and mixed by another (the paper's W_O).

    Args:
        in_channels: C.
        key_channels: d_k, queries and keys of all heads together; a multiple of ``num_heads``.
        value_channels: d_v, values of all heads together and output channels; a multiple of ``num_heads``.
        num_heads: N_h.
        stride: Attend from every stride-th cell: the output map is ceil(input / stride).
        pool: Attend on the map averaged over (2*pool-1)^2 windows ``pool`` apart (3x3, stride 2 for pool=2) and
            upsample the result bilinearly to the output map. Border windows average the cells inside the map.
        position: "relative" (the paper's), "sine", "coordconv" or "none".
        grid: (H, W) of the attention map, after stride and pool, that the relative tables are built for; None takes
            it from the first input. Other sizes work at run time, see ``RelativePosition2d``.
        bias: Biases in both 1x1 convolutions.
        impl: Implementation of ``relative_attention_2d``.

    Shape:
        [B, C, H_in, W_in] -> [B, d_v, ceil(H_in / stride), ceil(W_in / stride)].

    Raises:
        TypeError, ValueError: An argument breaks the rules above.

    Source:
        Bello et al. 2019, arXiv:1904.09925, section 3.1-3.2; ``pool`` is what it does at 28x28 on ImageNet. How a
        strided layer attends is not printed: we sample the input as a strided 1x1 convolution does.
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        num_heads: int = 8,
        *,
        stride: int | Sequence[int] = 1,
        pool: int | Sequence[int] = 1,
        position: str = "relative",
        grid: Sequence[int] | None = None,
        bias: bool = True,
        impl: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.in_channels = expect_int("in_channels", in_channels)
        self.num_heads = expect_int("num_heads", num_heads)
        self.key_channels = expect_int("key_channels", key_channels)
        self.value_channels = expect_int("value_channels", value_channels)
        for name in ("key_channels", "value_channels"):
            expect_divisible(name, getattr(self, name), "num_heads", num_heads)
        self.stride = expect_pair("stride", stride)
        self.pool = expect_pair("pool", pool)
        self.impl = expect_one_of("impl", impl, IMPL_NAMES)
        size = None if grid is None else expect_pair("grid", grid)
        self.position = create_position(position, key_channels // num_heads, size, device, dtype)
        options = {"bias": bias, "device": device, "dtype": dtype}
        attended = in_channels + self.position.extra_channels
        self.qkv = nn.Conv2d(attended, 2 * key_channels + value_channels, 1, **options)
        self.out = nn.Conv2d(value_channels, value_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        size = [(edge - 1) // step + 1 for edge, step in zip(x.shape[2:], self.stride, strict=True)]
        p = self.project(x)
        heads = relative_attention_2d(p.q, p.k, p.v, p.rel_h, p.rel_w, grid=p.grid, impl=self.impl)
        joined = heads.mT.flatten(1, 2).unflatten(2, p.grid)  # [B, N, L, V] -> [B, N*V, H, W], head by head
        y = self.out(joined)
        if self.pool != (1, 1):
            y = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
        return y

    def project(self, x: Tensor) -> Projection:
        """Queries, keys, values and tables that attention on ``x`` works with."""
        x = self.position.encode(self.reduced(x))
        grid = (x.shape[2], x.shape[3])
        channels = (self.key_channels, self.key_channels, self.value_channels)
        # a channel block -> [B, N, channels a head, L] -> [B, N, L, channels a head]
        q, k, v = (
            part.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
            for part in self.qkv(x).split(channels, dim=1)
        )
        return Projection(q, k, v, *self.position.tables(grid), grid)

    @torch.no_grad()
    def maps(self, x: Tensor, queries: Tensor | Sequence[int], part: str = "both") -> Tensor:
        """Weights of the flat attention positions ``queries`` [Q] on input ``x``: [B, N, Q, H, W].

        Args:
            x: As of ``forward``.
            queries: In 0..L-1.
            part: "both", or "content" or "position" for the softmax of that term of the logits alone.

        Raises:
            ValueError: Unknown part, or "position" of a layer without relative tables.
        """
        expect_one_of("part", part, PARTS)
        p = self.project(x)
        if part == "position" and p.rel_h is None:
            raise ValueError('part must be "both" or "content" of a layer without relative positions, got "position"')
        k = torch.zeros_like(p.k) if part == "position" else p.k
        rel_h, rel_w = (None, None) if part == "content" else (p.rel_h, p.rel_w)
        return attention_maps_2d(p.q, k, rel_h, rel_w, grid=p.grid, queries=queries)

    def resize_grid(self, grid: Sequence[int]) -> None:
        """Refit relative tables to (H, W) for good; other encodings have nothing to refit."""
        size = expect_pair("grid", grid)
        if isinstance(self.position, RelativePosition2d):
            self.position.resize_grid(size)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, stride={self.stride}, pool={self.pool}, impl={self.impl!r}"

    def reduced(self, x: Tensor) -> Tensor:
        """The map that attention works on: every stride-th cell, then averaged."""
        if self.stride != (1, 1):
            x = F.avg_pool2d(x, 1, self.stride)  # one cell each; a slice's size cannot be proved that of a convolution
        if self.pool != (1, 1):
            window = [2 * step - 1 for step in self.pool]
            margin = [step - 1 for step in self.pool]
            x = F.avg_pool2d(x, window, self.pool, margin, count_include_pad=False)
        return x
