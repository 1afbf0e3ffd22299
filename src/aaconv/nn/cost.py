"""What a module costs: floating-point operations, counted on the meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aaconv.nn.attention import Attention2d


def count_flops(module: nn.Module, shape: Sequence[int], formulas: dict[Any, Any] | None = None) -> int:
    """Two for each multiply-accumulate of convolutions and matrix products of one forward pass.

    Args:
        module: Attention layers in it are counted as one operation each, whichever implementation they choose.
        shape: Of the input.
        formulas: Cost of operators that are to be counted another way, as ``FlopCounterMode`` takes it.
    """
    ghost = deepcopy(module).to("meta").eval()
    for part in ghost.modules():
        if isinstance(part, Attention2d):
            part.impl = "cpu"  # our operator, of which the counter knows the cost; on the meta device nothing runs
    dtype = next((p.dtype for p in ghost.parameters()), torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas or {}) as counter:
        ghost(torch.empty(*shape, device="meta", dtype=dtype))
    return counter.get_total_flops()
