"""MnasNet-A1, plain and augmented: rows over timm's body."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet

from aaconv.models.placement import How, Shares, augment_convolution, position_tables

A1 = (  # timm's notation: block, repeats, kernel, stride, expansion, channels, squeeze-excite
    ("ds_r1_k3_s1_e1_c16_noskip",),
    ("ir_r2_k3_s2_e6_c24",),
    ("ir_r3_k5_s2_e3_c40_se0.25",),
    ("ir_r4_k3_s2_e6_c80",),
    ("ir_r2_k3_s1_e6_c112_se0.25",),
    ("ir_r3_k5_s2_e6_c160_se0.25",),
    ("ir_r1_k3_s1_e6_c320",),
)
LEAST_REDUCTION = 16  # of augmented convolutions: maps of at most 14x14 for images of 224


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One network."""

    multiplier: float  # of the channels
    shares: Shares | None = None


_PAPER = Shares(key_ratio=0.1, value_ratio=0.05, num_heads=4, min_key_channels_per_head=0, rounding="nearest")
_MULTIPLIERS = {"075": 0.75, "100": 1.0, "125": 1.25, "140": 1.4}
SPECS = {f"mnasnet_a1_{name}": Spec(multiplier=multiplier) for name, multiplier in _MULTIPLIERS.items()} | {
    f"aa_mnasnet_{name}": Spec(multiplier=multiplier, shares=_PAPER) for name, multiplier in _MULTIPLIERS.items()
}


class AugmentedMnasNet(EfficientNet):
    """timm's EfficientNet in the form of a row of ``SPECS``: [B, C, H, W] -> logits [B, num_classes], any H and W.

    Augmented is the 1x1 convolution that expands each inverted bottleneck, on maps of 1/16 of the image and smaller.

    Args:
        spec: The row.
        position: "relative", "sine", "coordconv" or "none".
        impl: See ``aaconv.relative_attention_2d``.
        img_size: Image height and width, or both in one, that the position tables are built for.
        options: As timm's: num_classes, in_chans, global_pool, drop_rate, drop_path_rate, ...

    Source:
        Bello et al. 2019, arXiv:1904.09925, section 4.3. The body is MnasNet-A1 (Tan et al. 2019). Shares are rounded
        to the nearest head and have no least key channels, which is the reading that comes nearest to the counts.
    """

    def __init__(
        self,
        spec: Spec,
        position: str = "relative",
        impl: str = "auto",
        img_size: int | tuple[int, int] = 224,
        **options: Any,
    ):
        how = How.checked(position, impl, img_size)
        rounded = partial(round_channels, multiplier=spec.multiplier)
        super().__init__(decode_arch_def([list(stage) for stage in A1]), round_chs_fn=rounded, **options)
        self.spec = spec
        if spec.shares is not None:
            reduction: int = 2
            blocks: list[Any] = [block for stage in self.blocks.children() for block in stage.children()]
            for block in blocks:
                if reduction >= LEAST_REDUCTION:
                    augment_convolution(block, "conv_pw", spec.shares, how, reduction)
                reduction *= block.conv_dw.stride[0]

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone."""
        return position_tables(self)
