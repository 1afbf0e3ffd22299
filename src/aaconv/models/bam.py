"""The bottleneck attention module, one of the rivals that the paper compares with.

Letters: B batch, C channels, H W map.
"""

from __future__ import annotations

from torch import Tensor, nn

from aaconv._checks import expect_int


class Bam(nn.Module):
    """``x * (1 + sigmoid(channel(x) + spatial(x)))``, [B, C, H, W] -> the same.

    Args:
        channels: C.
        reduction: The hidden layers have C / ``reduction`` channels, at least one.
        dilation: Of the two 3x3 convolutions of the spatial branch.

    In training, batch norm of the pooled branch wants two images at least.

    Source: Park et al. 2018, BAM: Bottleneck Attention Module, arXiv:1807.06514. The authors' code multiplies the
    branches; we add them, as the paper's equation 2 does.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4):
        super().__init__()
        hidden = max(1, expect_int("channels", channels) // expect_int("reduction", reduction))
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
        )
        dilated = [nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation) for _ in range(2)]
        self.spatial = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU())
        for conv in dilated:
            self.spatial.extend([conv, nn.BatchNorm2d(hidden), nn.ReLU()])
        self.spatial.append(nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + (self.channel(x) + self.spatial(x)).sigmoid())
