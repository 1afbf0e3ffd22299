"""Parameters and floating-point operations of a network."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aaconv._checks import expect_int
from aaconv.nn import Attention2d


@dataclass(frozen=True)
class Complexity:
    """Size and cost of one forward pass of one image."""

    parameters: int
    flops: int  # two for each multiply-accumulate of convolutions and matrix products; nothing else is counted


def measure_complexity(model: nn.Module, in_chans: int, image_size: int) -> Complexity:
    """Count on the meta device, where nothing is computed; attention is counted as the paper's formula writes it."""
    expect_int("image_size", image_size)
    ghost = deepcopy(model).to("meta").eval()
    for module in ghost.modules():
        if isinstance(module, Attention2d):
            module.impl = "reference"
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(torch.empty(1, in_chans, image_size, image_size, device="meta"))
    return Complexity(sum(p.numel() for p in model.parameters()), counter.get_total_flops())
