"""The bottleneck attention module against its equation."""

import pytest
import torch
from torch.nn import functional as F

from aaconv.models.bam import Bam


def test_is_the_equation():
    torch.manual_seed(0)
    bam = Bam(32, reduction=8, dilation=2).double().eval()
    for module in bam.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64)

    def norm(y, bn):
        return F.relu(F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps))

    c, s = bam.channel, bam.spatial
    pooled = x.mean(dim=(2, 3), keepdim=True)
    channel = F.conv2d(norm(F.conv2d(pooled, c[1].weight, c[1].bias), c[2]), c[4].weight, c[4].bias)
    spatial = norm(F.conv2d(x, s[0].weight, s[0].bias), s[1])
    spatial = norm(F.conv2d(spatial, s[3].weight, s[3].bias, padding=2, dilation=2), s[4])
    spatial = norm(F.conv2d(spatial, s[6].weight, s[6].bias, padding=2, dilation=2), s[7])
    spatial = F.conv2d(spatial, s[9].weight, s[9].bias)
    assert channel.shape == (2, 32, 1, 1)
    assert spatial.shape == (2, 1, 5, 7)
    torch.testing.assert_close(bam(x), x + x * torch.sigmoid(channel + spatial))


def test_hidden_channels():
    assert Bam(64).channel[1].out_channels == 4
    assert Bam(8).channel[1].out_channels == 1
    with pytest.raises(ValueError, match="channels must be at least 1, got channels=0"):
        Bam(0)
