"""Convolutions turned into augmented ones: kept filters compute what they did, for every kind of convolution."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aaconv.nn.convert import augmented, kept_filters

OPTIONS = {"key_channels": 8, "value_channels": 4, "num_heads": 2}


class Same(nn.Conv2d):
    """Pads as TensorFlow does, after the input's size."""

    def forward(self, x):
        pads = []
        for edge, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-edge // stride) - 1) * stride + kernel - edge, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


@pytest.mark.parametrize("size", [(8, 8), (7, 10)], ids=str)
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 12, 3, padding=1),
        nn.Conv2d(6, 12, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(6, 12, 5, padding="same", dilation=2, padding_mode="reflect"),
        nn.Conv2d(6, 12, 3, padding=1, groups=2),
        nn.Conv2d(6, 12, 1),
        Same(6, 12, 3, stride=2),
        Same(6, 12, 5, stride=2, groups=2, bias=False),
    ],
    ids=str,
)
def test_kept_filters_compute_what_they_did(conv, size):
    layer, x = augmented(conv, **OPTIONS), torch.randn(2, 6, *size)
    kept = kept_filters(conv, 4)
    assert len(kept) == 8
    torch.testing.assert_close(layer(x)[:, kept], conv(x)[:, kept])
    assert layer(x).shape == conv(x).shape
    assert type(layer.conv) is type(conv)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert conv.weight.grad is None


def test_kept_filters_are_the_first_of_each_group():
    assert kept_filters(nn.Conv2d(4, 12, 1, groups=2), 4).tolist() == [0, 1, 2, 3, 6, 7, 8, 9]


def test_all_channels_to_attention():
    layer = augmented(nn.Conv2d(6, 12, 3, padding=1), key_channels=8, value_channels=12, num_heads=2)
    assert layer.conv is None
    assert layer(torch.randn(1, 6, 5, 5)).shape == (1, 12, 5, 5)


def test_dtype_and_device_are_kept():
    layer = augmented(nn.Conv2d(6, 12, 3, padding=1, device="meta", dtype=torch.float64), **OPTIONS, grid=(4, 4))
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}


def test_refusals():
    with pytest.raises(TypeError, match=r"conv must be an nn.Conv2d, got Linear"):
        augmented(nn.Linear(3, 4), **OPTIONS)
    with pytest.raises(ValueError, match=r"out_channels - value_channels must be a multiple of groups=12"):
        augmented(nn.Conv2d(12, 12, 3, padding=1, groups=12), **OPTIONS)
    with pytest.raises(ValueError, match=r"padding must give an output map of ceil"):
        augmented(nn.Conv2d(6, 12, 3), **OPTIONS)
