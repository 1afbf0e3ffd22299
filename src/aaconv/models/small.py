"""Small residual networks for images of about 32 pixels: a row of the table is a network.

Letters: B batch, C channels, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aaconv.nn import AttentionAugmentedConv2d


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One network: a stride-2 stem, then basic blocks whose first convolution may be augmented."""

    widths: tuple[int, ...] = (32, 32, 64, 64)  # output channels of each block; the stem has the first
    strides: tuple[int, ...] = (1, 1, 2, 1)
    value_ratios: tuple[float, ...] = (0, 0, 0, 0)  # value channels / output channels (upsilon) of each block
    key_channels: int = 80  # of each augmented convolution (d_k)
    num_heads: int = 4
    position: str = "relative"
    impl: str = "auto"
    image_size: int = 32  # that the position tables are built for; other sizes work too


SPECS = {
    # Both have 174k parameters (within 1%). Attention starts at the last blocks, the cheapest place, as in the paper.
    "resnet10s": Spec(widths=(32, 32, 65, 65)),
    "aa_resnet10s": Spec(value_ratios=(0, 0, 0.25, 0.25)),
}


class SmallResNet(nn.Module):
    """[B, C, H, W] -> logits [B, num_classes], any H and W."""

    def __init__(self, spec: Spec, num_classes: int, in_chans: int):
        super().__init__()
        self.spec = spec
        channels, edge = spec.widths[0], -(-spec.image_size // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.blocks = nn.Sequential()
        for width, stride, value_ratio in zip(spec.widths, spec.strides, spec.value_ratios, strict=True):
            edge = -(-edge // stride)
            self.blocks.append(BasicBlock(channels, width, stride, value_ratio, edge, spec))
            channels = width
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


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
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
