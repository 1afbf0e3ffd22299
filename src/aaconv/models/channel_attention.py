"""What the residual branch of a block may end with, of what the paper compares with; built of timm's modules."""

from __future__ import annotations

from torch import nn

from aaconv._checks import expect_one_of

CHANNEL_ATTENTION = ("se", "ge", "cbam")


def channel_attention(name: str | None, channels: int) -> nn.Module:
    """The module that scales a map of ``channels``: in the forms, without biases and parameters, that the counts fit.

    Raises:
        ValueError: No such module.
    """
    if name is None:
        return nn.Identity()
    expect_one_of("channel_attention", name, CHANNEL_ATTENTION)
    from timm.layers import GatherExcite, SEModule
    from timm.layers.cbam import CbamModule

    if name == "se":
        return SEModule(channels, rd_divisor=1, bias=False)
    return GatherExcite(channels, use_mlp=False) if name == "ge" else CbamModule(channels)
