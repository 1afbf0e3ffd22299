"""ResNets for photographs, plain, augmented, and with what the paper compares with: rows over timm's body.

The bodies have the stride on the 3x3 convolution of a bottleneck ("v1.5"); the counts that the paper prints fit that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from timm.layers import GatherExcite
from timm.layers.cbam import CbamModule
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from aaconv.models.bam import Bam
from aaconv.models.placement import How, Shares, augment_convolution, position_tables

BLOCKS: dict[str, Any] = {"basic": BasicBlock, "bottleneck": Bottleneck}
TARGETS = {"basic": "conv1", "bottleneck": "conv2"}  # the convolution of a block that is augmented
# What blocks may end with. Gather-excite in its parameter-free form, the one that the paper's counts fit.
CHANNEL_ATTENTION = {"se": "se", "cbam": CbamModule, "ge": partial(GatherExcite, use_mlp=False)}
STAGES = (("layer2", 8, 2), ("layer3", 16, 1), ("layer4", 32, 1))  # augmented stages: name, reduction, pool


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One network."""

    layers: tuple[int, ...]  # blocks in each stage
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels of each stage; a bottleneck ends with four times as many
    block: str = "bottleneck"
    shares: Shares | None = None  # of the augmented convolutions; None augments nothing
    channel_attention: str | None = None  # what each block ends with
    bam: bool = False  # a bottleneck attention module after each stage but the last


_R50 = Spec(layers=(3, 4, 6, 3))
_PAPER = Shares()
SPECS = {
    "aa_resnet34": Spec(layers=(3, 4, 6, 3), block="basic", shares=Shares(key_ratio=0.25, value_ratio=0.25)),
    "aa_resnet50": replace(_R50, shares=_PAPER),
    "aa_resnet101": Spec(layers=(3, 4, 23, 3), shares=_PAPER),
    "aa_resnet152": Spec(layers=(3, 8, 36, 3), shares=_PAPER),
    **{
        f"aa_resnet50_r{percent}": replace(_R50, shares=Shares(key_ratio=percent / 100, value_ratio=percent / 100))
        for percent in (25, 50, 75, 100)
    },
    "ge_resnet50": replace(_R50, channel_attention="ge"),
    "cbam_resnet50": replace(_R50, channel_attention="cbam"),
    "bam_resnet50": replace(_R50, bam=True),
}


class AugmentedResNet(ResNet):
    """timm's ResNet in the form of a row of ``SPECS``: [B, C, H, W] -> logits [B, num_classes], any H and W.

    Augmented are the 3x3 convolution of each bottleneck and the first of each basic block, in the last three stages.
    The first of these attends on an average-pooled map, half as high and wide.

    Args:
        spec: The row.
        position: "relative", "sine", "coordconv" or "none".
        impl: See ``aaconv.relative_attention_2d``.
        img_size: Image height and width, or both in one, that the position tables are built for.
        options: As timm's: num_classes, in_chans, global_pool, drop_rate, drop_path_rate, ...

    Source:
        Bello et al. 2019, arXiv:1904.09925, section 4.2. Which stages are augmented is what gives the printed counts.
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
        block_args = {"attn_layer": CHANNEL_ATTENTION[spec.channel_attention]} if spec.channel_attention else {}
        wide = {"channels": spec.widths, "stem_width": spec.widths[0]}
        super().__init__(BLOCKS[spec.block], spec.layers, block_args=block_args, **{**wide, **options})
        self.spec = spec
        if spec.shares is not None:
            for stage, reduction, pool in STAGES:
                for block in getattr(self, stage):
                    augment_convolution(block, TARGETS[spec.block], spec.shares, how, reduction, pool)
        if spec.bam:
            for stage in ("layer1", "layer2", "layer3"):
                blocks = getattr(self, stage)
                blocks.append(Bam(blocks[-1].bn3.num_features))

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone."""
        return position_tables(self)
