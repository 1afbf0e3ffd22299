"""Which channels of a network's convolutions go to attention, and how: what all families of networks share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from aaconv._checks import expect_one_of, expect_pair
from aaconv.nn import Attention2d, AttentionAugmentedConv2d, attention_channels
from aaconv.nn.convert import augmented
from aaconv.nn.position import POSITIONS
from aaconv.ops.relative_attention import IMPL_NAMES


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Attention's shares of an augmented convolution."""

    key_ratio: float = 0.2  # key channels / output channels (the paper's kappa)
    value_ratio: float = 0.1  # value channels / output channels (upsilon)
    num_heads: int = 8
    min_key_channels_per_head: int = 20
    rounding: str = "down"


@dataclass(frozen=True, kw_only=True)
class How:
    """What a user may choose for every augmented convolution of a network."""

    position: str = "relative"
    impl: str = "auto"
    image_size: tuple[int, int] = (224, 224)  # that position tables are built for

    @classmethod
    def checked(cls, position: str, impl: str, img_size: int | tuple[int, int]) -> How:
        """The choices, or ValueError."""
        expect_one_of("impl", impl, IMPL_NAMES)
        size = expect_pair("img_size", img_size)
        return cls(position=expect_one_of("position", position, POSITIONS), impl=impl, image_size=size)


def augment_convolution(
    block: nn.Module, name: str, shares: Shares, how: How, reduction: int, pool: int = 1
) -> AttentionAugmentedConv2d:
    """Put an augmented layer in the place of ``block.name``, whose output map is 1/``reduction`` of the image."""
    conv = getattr(block, name)
    keys, values = attention_channels(
        conv.out_channels,
        key_ratio=shares.key_ratio,
        value_ratio=shares.value_ratio,
        num_heads=shares.num_heads,
        min_key_channels_per_head=shares.min_key_channels_per_head,
        rounding=shares.rounding,
    )
    grid = [-(-edge // (reduction * pool)) for edge in how.image_size]
    layer = augmented(
        conv,
        key_channels=keys,
        value_channels=values,
        num_heads=shares.num_heads,
        position=how.position,
        grid=grid,
        pool=pool,
        impl=how.impl,
    )
    setattr(block, name, layer)
    return layer


def position_tables(model: nn.Module) -> set[str]:
    """Names of the relative tables, which take no weight decay."""
    return {f"{name}.{table}" for name, module in _positions(model) for table, _ in module.named_parameters()}


def _positions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, Attention2d):
            yield f"{name}.position", module.position
