"""Small residual networks for images of about 32 pixels: a row of the table is a network.

Letters: B batch, C channels, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aaconv._checks import expect_one_of
from aaconv.models.bam import Bam
from aaconv.models.channel_attention import channel_attention
from aaconv.models.placement import position_tables
from aaconv.nn import AttentionAugmentedConv2d


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One network: a stride-2 stem, then basic blocks whose first convolution may be augmented."""

    widths: tuple[int, ...] = (32, 32, 64, 64)  # output channels of each block; the stem has the first
    strides: tuple[int, ...] = (1, 1, 2, 1)
    value_ratios: tuple[float, ...] = (0, 0, 0, 0)  # value channels / output channels (upsilon) of each block
    key_channels: int = 80  # of each augmented convolution (d_k)
    num_heads: int = 4
    channel_attention: str | None = None  # what the residual branch of each block ends with
    bam: bool = False  # a bottleneck attention module before each block with a stride
    position: str = "relative"
    impl: str = "auto"
    img_size: int = 32  # that the position tables are built for; other sizes work too


_TINY = Spec(widths=(16, 16, 32, 32))
SPECS = {
    # Both have 174k parameters (within 1%). Attention starts at the last blocks, the cheapest place, as in the paper.
    "resnet10s": Spec(widths=(32, 32, 65, 65)),
    "aa_resnet10s": Spec(value_ratios=(0, 0, 0.25, 0.25)),
    # Cheap enough for many runs of each on a CPU; with 4 heads of at least 20 key channels the paper's rule gives 80.
    "resnet10xs": _TINY,
    "se_resnet10xs": replace(_TINY, channel_attention="se"),
    "ge_resnet10xs": replace(_TINY, channel_attention="ge"),
    "cbam_resnet10xs": replace(_TINY, channel_attention="cbam"),
    "bam_resnet10xs": replace(_TINY, bam=True),
    **{
        f"aa_resnet10xs_r{share}": replace(_TINY, value_ratios=(0, 0, share / 100, share / 100))
        for share in (25, 50, 75, 100)
    },
}


class SmallResNet(nn.Module):
    """[B, C, H, W] -> logits [B, num_classes], any H and W; the manners of timm's models without needing timm.

    Args:
        spec: The row.
        num_classes: Logits; 0 gives the pooled features.
        in_chans: C.
        global_pool: "avg", or "" for the map itself.
        drop_rate: Dropout before the classifier.
        changes: Cells of the row to override.
    """

    def __init__(
        self,
        spec: Spec,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **changes: Any,
    ):
        super().__init__()
        self.spec = spec = replace(spec, **changes)
        self.in_chans, self.drop_rate, self.grad_checkpointing = in_chans, drop_rate, False
        channels, edge = spec.widths[0], -(-spec.img_size // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.feature_info = [{"num_chs": channels, "reduction": 2, "module": "stem"}]
        self.blocks = nn.Sequential()
        reduction = 2
        for width, stride, value_ratio in zip(spec.widths, spec.strides, spec.value_ratios, strict=True):
            if spec.bam and stride > 1:
                self.blocks.append(Bam(channels))
            edge, reduction = -(-edge // stride), reduction * stride
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"blocks.{len(self.blocks)}"})
            self.blocks.append(BasicBlock(channels, width, stride, value_ratio, edge, spec))
            channels = width
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, [B, num_features, H/4, W/4]."""
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing and self.training else block(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From the last map to logits, or with ``pre_logits`` to what the classifier gets."""
        x = x.mean(dim=(2, 3)) if self.global_pool else x
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def get_classifier(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; ``global_pool`` None keeps the pooling."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = expect_one_of("global_pool", global_pool, ("avg", ""))
        if num_classes and not self.global_pool:
            raise ValueError("global_pool='' leaves a map, which only num_classes=0 can return")
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward pass instead of keeping its maps."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of parameter names by depth."""
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone."""
        return position_tables(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first is augmented where ``value_ratio`` is above 0."""

    def __init__(self, in_channels: int, channels: int, stride: int, value_ratio: float, edge: int, spec: Spec):
        super().__init__()
        self.conv1 = AttentionAugmentedConv2d(
            in_channels,
            channels,
            3,
            stride,
            padding=1,
            bias=False,
            key_channels=spec.key_channels,
            value_channels=round(value_ratio * channels),
            num_heads=spec.num_heads,
            position=spec.position,
            grid=(edge, edge),
            impl=spec.impl,
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.channel_attention = channel_attention(spec.channel_attention, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.channel_attention(self.bn2(self.conv2(y))) + self.shortcut(x))
