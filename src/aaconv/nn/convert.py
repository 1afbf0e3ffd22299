"""From a convolution that a network has to the augmented one that takes its place."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from aaconv.nn.conv import AttentionAugmentedConv2d


class InPlaceAugmentedConv2d(AttentionAugmentedConv2d):
    """The augmented layer with every channel where it stood in a grouped convolution: attention behind each group.

    ``order`` [O] says which channel of the concatenation each output channel is; it is no part of the state dict.
    """

    order: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).index_select(1, self.order)


def augmented(conv: nn.Conv2d, *, key_channels: int, value_channels: int, **options: Any) -> AttentionAugmentedConv2d:
    """The augmented layer in the place of ``conv``, with as many output channels and the filters of those it keeps.

    Of each group the first filters stay, with their weights and in their places; ``value_channels`` of all are given to
    attention, which is freshly drawn. Subclasses of ``nn.Conv2d`` keep their own way of padding and convolving.

    Args:
        conv: Any convolution whose output map is ceil(input / stride); it is left as it is.
        key_channels, value_channels: d_k and d_v. ``value_channels`` must be a multiple of the groups of ``conv``.
        options: ``num_heads``, ``position``, ``grid``, ``pool`` and ``impl`` of ``AttentionAugmentedConv2d``.

    Raises:
        TypeError: ``conv`` is no ``nn.Conv2d``.
        ValueError: The layer cannot be built; the message says which argument is at fault.
    """
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv must be an nn.Conv2d, got {type(conv).__name__}")
    kept = kept_filters(conv, value_channels) if value_channels % conv.groups == 0 else torch.arange(0)
    kind = InPlaceAugmentedConv2d if conv.groups > 1 else AttentionAugmentedConv2d
    layer = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding if type(conv) is nn.Conv2d else "same",
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        key_channels=key_channels,
        value_channels=value_channels,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
        **options,
    )
    if isinstance(layer, InPlaceAugmentedConv2d):
        given = torch.ones(conv.out_channels, dtype=torch.bool).index_fill(0, kept, False).nonzero().flatten()
        order = torch.cat([kept, given]).argsort()
        layer.register_buffer("order", order.to(conv.weight.device), persistent=False)
    if layer.conv is not None and type(conv) is nn.Conv2d:
        layer.conv.load_state_dict(filters_of(conv, kept))
    elif layer.conv is not None:
        layer.adopt_convolution(_with_filters(conv, kept))
    return layer


def kept_filters(conv: nn.Conv2d, value_channels: int) -> Tensor:
    """Indices of the filters of ``conv`` that stay when ``value_channels`` go to attention: the first of each group."""
    filters = torch.arange(conv.out_channels).view(conv.groups, -1)
    return filters[:, : filters.shape[1] - value_channels // conv.groups].flatten()


def filters_of(conv: nn.Conv2d, kept: Tensor) -> dict[str, Tensor]:
    """Weight, and bias if there is one, of the filters ``kept``."""
    named = {"weight": conv.weight, "bias": conv.bias}
    return {name: tensor.detach()[kept.to(tensor.device)] for name, tensor in named.items() if tensor is not None}


def _with_filters(conv: nn.Conv2d, kept: Tensor) -> nn.Conv2d:
    copy = deepcopy(conv)
    copy.out_channels = len(kept)
    for name, tensor in filters_of(conv, kept).items():
        setattr(copy, name, nn.Parameter(tensor.clone()))
    return copy
