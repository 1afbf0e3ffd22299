"""Padding whose output map is ceil(input / stride), for every kernel. Sizes and pads are (vertical, horizontal)."""

from __future__ import annotations

from collections.abc import Sequence

from aaconv._checks import expect_one_of, expect_pair

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # (before, after) of the vertical axis, of the horizontal axis


def pads_of(padding: int | Sequence[int] | str, kernel_size: Pair, dilation: Pair) -> Pads:
    """Cells before and after each axis: "same", "valid", one int or two (vertical, horizontal)."""
    if isinstance(padding, str):
        expect_one_of("padding", padding, ("same", "valid"))
        spans = [
            step * (cells - 1) if padding == "same" else 0 for cells, step in zip(kernel_size, dilation, strict=True)
        ]
        return (spans[0] // 2, spans[0] - spans[0] // 2), (spans[1] // 2, spans[1] - spans[1] // 2)
    vertical, horizontal = expect_pair("padding", padding, minimum=0)
    return (vertical, vertical), (horizontal, horizontal)


def convolved(size: Pair, pads: Pads, kernel_size: Pair, stride: Pair, dilation: Pair) -> Pair:
    """The output map of a convolution on a map of ``size``."""
    edges = [
        (edge + sum(pad) - step * (cells - 1) - 1) // jump + 1
        for edge, pad, cells, jump, step in zip(size, pads, kernel_size, stride, dilation, strict=True)
    ]
    return edges[0], edges[1]


def can_match_stride(pads: Pads, kernel_size: Pair, stride: Pair, dilation: Pair) -> bool:
    """Whether the output map is ceil(input / stride) for any input at all."""
    return all(
        abs(sum(pad) - step * (cells - 1)) < jump
        for pad, cells, jump, step in zip(pads, kernel_size, stride, dilation, strict=True)
    )
