"""The augmented convolution: a convolution and self-attention side by side, concatenated along channels.

Letters: B batch, C input channels, O output channels (the paper's F_out), H W map, N heads, K key channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aaconv._checks import expect_divisible, expect_int, expect_one_of, expect_pair, expect_shape
from aaconv.nn.attention import Attention2d
from aaconv.nn.channels import attention_channels
from aaconv.nn.padding import PADDING_MODES, can_match_stride, convolved, pads_of

IntPair = int | Sequence[int]


class AttentionAugmentedConv2d(nn.Module):
    """``Concat[Conv(x), Attention(x)]`` along channels, a drop-in for ``nn.Conv2d``.

    The convolution has ``out_channels - value_channels`` filters and comes first. With
    ``value_channels == out_channels`` there is no convolution (a fully attentional layer, ``conv`` is None); with
    ``value_channels == 0`` there is no attention (a plain convolution, ``attention`` is None).

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, padding_mode: As in ``nn.Conv2d``.
            ``kernel_size``, ``dilation``, ``groups``, ``padding_mode`` shape the convolution alone.
        padding: As in ``nn.Conv2d``; the output map must be ceil(input / stride), the attention's. The default "same"
            gives that for every kernel, and for strides too: padding of dilation * (kernel_size - 1) in all, the odd
            cell after.
        key_channels: d_k, queries and keys of all heads together; a multiple of ``num_heads``.
        value_channels: d_v, channels of the output that attention gives; a multiple of ``num_heads``, 0..O.
        num_heads: N_h.
        position: "relative" (the paper's), "sine", "coordconv" or "none".
        grid: (H, W) of the attention map, that is after stride and pool, that the relative tables are built for; None
            takes it from the first input. At run time smaller maps use the middle rows of the tables, exactly;
            larger ones the tables interpolated linearly. ``resize_grid`` makes that permanent.
        pool: Attend on an average-pooled map and upsample bilinearly, see ``Attention2d``.
        impl: "auto", "reference", "folded", "cpu" or "cuda", see ``relative_attention_2d``.

    Shape:
        [B, C, H, W] -> [B, O, ceil(H / stride), ceil(W / stride)].

    Parameters (the contract of checkpoints):
        ``conv.weight``, ``conv.bias``; ``attention.qkv.weight``, ``.bias`` (channels: query, key, value);
        ``attention.out.weight``, ``.bias``; ``attention.position.height`` [2H-1, K], ``attention.position.width``
        [2W-1, K].

    Raises:
        TypeError: A count is no int.
        ValueError: An argument or an input breaks the rules above.

    Source:
        Bello et al. 2019, arXiv:1904.09925, section 3. The paper puts batch normalisation behind the layer. Strides,
        dilation, groups and other grids than the trained one are our additions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = "same",
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        key_channels: int,
        value_channels: int,
        num_heads: int = 8,
        position: str = "relative",
        grid: Sequence[int] | None = None,
        pool: IntPair = 1,
        impl: str = "auto",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.in_channels = expect_int("in_channels", in_channels)
        self.out_channels = expect_int("out_channels", out_channels)
        self.kernel_size = expect_pair("kernel_size", kernel_size)
        self.stride = expect_pair("stride", stride)
        self.dilation = expect_pair("dilation", dilation)
        self.groups = expect_int("groups", groups)
        self.padding_mode = expect_one_of("padding_mode", padding_mode, PADDING_MODES)
        self.padding = padding
        self.value_channels = expect_int("value_channels", value_channels, minimum=0)
        if value_channels > out_channels:
            raise ValueError(f"value_channels must be at most out_channels={out_channels}, got {value_channels=}")
        self._pads = pads_of(padding, self.kernel_size, self.dilation)
        self._symmetric = all(before == after for before, after in self._pads)
        if value_channels and not can_match_stride(self._pads, self.kernel_size, self.stride, self.dilation):
            raise ValueError(
                f"padding must give an output map of ceil(input / stride), got {padding=} for {kernel_size=}, "
                f"{stride=}, {dilation=}; use padding='same'"
            )
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = self.attention = None
        if filters := out_channels - value_channels:
            expect_divisible("in_channels", in_channels, "groups", groups)
            expect_divisible("out_channels - value_channels", filters, "groups", groups)
            own = (self._pads[0][0], self._pads[1][0]) if self._symmetric else 0
            shape: tuple[Any, ...] = (self.kernel_size, self.stride, own, self.dilation, groups, bias, padding_mode)
            self.conv = nn.Conv2d(in_channels, filters, *shape, **options)
        if value_channels:
            options |= {"stride": self.stride, "pool": pool, "position": position, "grid": grid, "bias": bias}
            self.attention = Attention2d(in_channels, key_channels, value_channels, num_heads, impl=impl, **options)

    @classmethod
    def from_ratios(
        cls,
        in_channels: int,
        out_channels: int,
        *args: Any,
        key_ratio: float = 0.2,
        value_ratio: float = 0.1,
        num_heads: int = 8,
        min_key_channels_per_head: int = 20,
        **options: Any,
    ) -> AttentionAugmentedConv2d:
        """The layer with channels by the paper's rule, ``attention_channels``; other arguments as for the class."""
        keys, values = attention_channels(
            out_channels,
            key_ratio=key_ratio,
            value_ratio=value_ratio,
            num_heads=num_heads,
            min_key_channels_per_head=min_key_channels_per_head,
        )
        options |= {"key_channels": keys, "value_channels": values, "num_heads": num_heads}
        return cls(in_channels, out_channels, *args, **options)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        branches = []
        if self.conv is not None:
            branches.append(self.conv(self._pad(x)))
        if self.attention is not None:
            branches.append(self.attention(x))
        if len(branches) == 1:
            return branches[0]
        return torch.cat(branches, dim=1)

    def resize_grid(self, grid: Sequence[int]) -> None:
        """Refit the relative tables to an attention map of (H, W) for good."""
        if self.attention is not None:
            self.attention.resize_grid(grid)

    def adopt_convolution(self, conv: nn.Conv2d) -> None:
        """Use ``conv``, of the same shape as the layer's own, which pads its input itself."""
        self.conv, self._symmetric = conv, True

    def symmetric_padding(self) -> tuple[int, int] | str:
        """The padding as ``nn.Conv2d`` takes it; ValueError where that cannot be said to it."""
        if all(before == after for before, after in self._pads):
            return self._pads[0][0], self._pads[1][0]
        if self.stride != (1, 1):
            raise ValueError(f"nn.Conv2d cannot pad {self._pads} with stride={self.stride}")
        return "same"

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"

    def _pad(self, x: Tensor) -> Tensor:
        """Padding that differs before and after, which ``nn.Conv2d`` cannot do with a stride."""
        if self._symmetric:
            return x
        vertical, horizontal = self._pads
        return F.pad(x, (*horizontal, *vertical), PADDING_MODES[self.padding_mode])

    def _check(self, x: Tensor) -> None:
        expect_shape("input", x, ["B", self.in_channels, "H", "W"])
        dtype = next(self.parameters()).dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"input must have the layer's dtype {dtype}, got {x.dtype}; convert one of them with .to()"
            )
        size = (x.shape[2], x.shape[3])
        if not all(size):
            raise ValueError(f"input must have at least one cell, got shape {list(x.shape)}")
        if self.conv is None or self.attention is None:
            return
        got = convolved(size, self._pads, self.kernel_size, self.stride, self.dilation)
        wanted = tuple((edge - 1) // step + 1 for edge, step in zip(size, self.stride, strict=True))
        if got != wanted:
            raise ValueError(
                f"convolution and attention must give maps of one size, got {list(got)} and {list(wanted)} for an "
                f"input of {list(size)} with padding={self.padding!r}; use padding='same'"
            )
