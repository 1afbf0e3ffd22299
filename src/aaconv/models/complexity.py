"""Parameters and floating-point operations of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aaconv._checks import expect_one_of, expect_pair
from aaconv.nn.cost import count_flops


@dataclass(frozen=True)
class Complexity:
    """Size and cost of one forward pass of one image."""

    parameters: int
    flops: int  # two for each multiply-accumulate of convolutions and matrix products; nothing else is counted


def _once(q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    """One for each multiply-accumulate of q k^T and weights v; the position terms are left out."""
    batch, heads, length, channels = q
    return batch * heads * length**2 * (channels + v[-1])


# How attention is counted. "paper": the convention that the printed GFLOPs fit; convolutions count two as ever.
CONVENTIONS: dict[str, dict[Any, Any]] = {"full": {}, "paper": {torch.ops.aaconv.relative_attention: _once}}


def measure_complexity(
    model: nn.Module, in_chans: int, image_size: int | tuple[int, int], convention: str = "full"
) -> Complexity:
    """Count on the meta device, where nothing is computed.

    Args:
        model: Any network; attention layers are counted as one operation each, whichever implementation they choose. Of
            a detector of ours, what comes before boxes are chosen is counted.
        in_chans: Image channels.
        image_size: Pixels of an edge, or (height, width).
        convention: "full" counts two for each multiply-accumulate, the position terms too; "paper" counts attention's
            products of content once and leaves the position terms out.
    """
    height, width = expect_pair("image_size", image_size)
    formulas = CONVENTIONS[expect_one_of("convention", convention, CONVENTIONS)]
    counted = _Dense(model) if hasattr(type(model), "dense_outputs") else model
    flops = count_flops(counted, (1, in_chans, height, width), formulas)
    return Complexity(sum(p.numel() for p in model.parameters()), flops)


class _Dense(nn.Module):
    """A detector without the choice of boxes, which depends on what is in the image."""

    def __init__(self, detector: Any):
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> Any:
        return self.detector.dense_outputs(images)
