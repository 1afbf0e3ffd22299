"""The paper's channel rule."""

import pytest

from aaconv import AttentionAugmentedConv2d, attention_channels


@pytest.mark.parametrize(
    "out_channels, kappa, upsilon, heads, minimum, wanted",
    [
        (128, 0.2, 0.1, 8, 20, (160, 8)),  # the 3x3 of AA-ResNet-50 at 28x28
        (256, 0.2, 0.1, 8, 20, (160, 24)),
        (512, 0.2, 0.1, 8, 20, (160, 48)),
        (128, 0.25, 0.25, 8, 20, (160, 32)),  # AA-ResNet-34
        (640, 0.2, 0.1, 8, 20, (160, 64)),  # 0.1 * 640 is not a hair below 64
        (1024, 0.5, 1, 8, 20, (512, 1024)),
        (240, 0.1, 0.05, 4, 0, (24, 12)),  # no minimum
        (100, 0.29, 0, 1, 0, (29, 0)),  # 0.29 * 100 is 28.999999999999996
    ],
)
def test_rule(out_channels, kappa, upsilon, heads, minimum, wanted):
    got = attention_channels(
        out_channels, key_ratio=kappa, value_ratio=upsilon, num_heads=heads, min_key_channels_per_head=minimum
    )
    assert got == wanted


def test_layer_from_ratios():
    layer = AttentionAugmentedConv2d.from_ratios(64, 128, 3, 2, key_ratio=0.2, value_ratio=0.1, grid=(14, 14))
    assert (layer.attention.key_channels, layer.attention.value_channels, layer.attention.num_heads) == (160, 8, 8)
    assert layer.conv.out_channels == 120
    assert layer.stride == (2, 2)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"key_ratio": 0}, ValueError, r"key_ratio must lie in \(0, 1\], got key_ratio=0"),
        ({"key_ratio": 1.5}, ValueError, r"key_ratio must lie in \(0, 1\]"),
        ({"value_ratio": -0.1}, ValueError, r"value_ratio must lie in \[0, 1\], got value_ratio=-0.1"),
        ({"value_ratio": float("nan")}, ValueError, r"value_ratio must lie in"),
        ({"value_ratio": "a"}, TypeError, r"value_ratio must be a number, got str 'a'"),
        ({"value_ratio": 0.1}, ValueError, r"value_ratio must leave each head a channel, .* use value_ratio >= 0.25"),
        ({"key_ratio": 0.1, "min_key_channels_per_head": 0}, ValueError, r"key_ratio must leave each head a channel"),
        ({"num_heads": 0}, ValueError, r"num_heads must be at least 1"),
        ({"min_key_channels_per_head": -1}, ValueError, r"min_key_channels_per_head must be at least 0"),
    ],
)
def test_bad_ratios(changes, error, message):
    options = {"key_ratio": 0.25, "value_ratio": 0.25, **changes}
    with pytest.raises(error, match=message):
        attention_channels(32, **options)


def test_shares_rounded_to_the_nearest_head():
    shares = {"key_ratio": 0.1, "value_ratio": 0.05, "num_heads": 4, "min_key_channels_per_head": 0}
    assert attention_channels(672, **shares) == (64, 32)
    assert attention_channels(672, **shares, rounding="nearest") == (68, 32)
    with pytest.raises(ValueError, match=r"rounding must be one of \['down', 'nearest'\], got 'up'"):
        attention_channels(672, **shares, rounding="up")
