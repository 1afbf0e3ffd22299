"""The paper's rule from ratios to channel counts."""

from __future__ import annotations

import math

from aaconv._checks import expect_int, expect_one_of, expect_ratio

ROUNDING = {"down": 0.0, "nearest": 0.5}  # what is added before rounding down


def attention_channels(
    out_channels: int,
    *,
    key_ratio: float,
    value_ratio: float,
    num_heads: int = 8,
    min_key_channels_per_head: int = 20,
    rounding: str = "down",
) -> tuple[int, int]:
    """Key and value channels of a layer from their shares of its output channels.

    Args:
        out_channels: F_out, the channels of convolution and attention together.
        key_ratio: kappa = d_k / F_out, in (0, 1].
        value_ratio: upsilon = d_v / F_out, in [0, 1]; 0 is a plain convolution, 1 a fully attentional layer.
        num_heads: N_h.
        min_key_channels_per_head: Least d_k / N_h; the paper uses 20, and 0 means no minimum. With a minimum
            d_k may exceed ``out_channels``.
        rounding: "down", or "nearest" for the nearest multiple of ``num_heads``.

    Returns:
        ``(key_channels, value_channels)``: each share rounded to a multiple of ``num_heads``, the keys raised to the
        minimum.

    Raises:
        ValueError: A ratio is out of range, or so small that no channel a head remains.

    Source:
        Bello et al. 2019, arXiv:1904.09925, section 4; the rounding is the one that gives the printed counts.
    """
    expect_int("out_channels", out_channels)
    expect_int("num_heads", num_heads)
    expect_int("min_key_channels_per_head", min_key_channels_per_head, minimum=0)
    expect_ratio("key_ratio", key_ratio)
    expect_ratio("value_ratio", value_ratio, zero=True)
    expect_one_of("rounding", rounding, ROUNDING)
    keys = max(_share(key_ratio, out_channels, num_heads, rounding), num_heads * min_key_channels_per_head)
    values = _share(value_ratio, out_channels, num_heads, rounding)
    for name, ratio, channels in (("key_ratio", key_ratio, keys), ("value_ratio", value_ratio, values)):
        if ratio > 0 and channels == 0:
            raise ValueError(
                f"{name} must leave each head a channel, got {name}={ratio} of out_channels={out_channels} "
                f"for num_heads={num_heads}; use {name} >= {num_heads / out_channels:.3g} or fewer heads"
            )
    return keys, values


def _share(ratio: float, channels: int, heads: int, rounding: str) -> int:
    """``ratio * channels`` rounded to a multiple of ``heads``, blind to the last bit of the product."""
    return heads * math.floor(ratio * channels / heads + ROUNDING[rounding] + 1e-9)
