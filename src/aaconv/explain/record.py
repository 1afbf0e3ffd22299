"""Remember what the attention layers of a network were given, and compute their maps from that.

Letters: B batch, N heads, Q queries, H W attention grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aaconv._checks import expect_one_of
from aaconv.nn import Attention2d
from aaconv.nn.position import RelativePosition2d


@dataclass(frozen=True)
class Call:
    """One run of a layer: its input, and the dtype of autocast if that was on."""

    input: Tensor
    autocast: torch.dtype | None


class Recording:
    """What each ``Attention2d`` of a network saw, by the layer's name, in the order in which the network holds them.

    ``calls`` has every run of a layer since recording began; ``inputs`` and ``maps`` are of the last.
    """

    def __init__(self, model: nn.Module):
        self.layers = {
            name.removeprefix("_orig_mod."): module  # what torch.compile puts in front
            for name, module in model.named_modules()
            if isinstance(module, Attention2d)
        }
        self.calls: dict[str, list[Call]] = {}

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The input of the last run of each layer that ran."""
        return {name: calls[-1].input for name, calls in self.calls.items()}

    def maps(self, layer: str, queries: Tensor | Sequence[int], part: str = "both") -> Tensor:
        """Attention weights of flat positions ``queries`` in ``layer``: [B, N, Q, H, W], exact.

        Memory grows with Q * H * W; ask for some queries at a time where there are many.

        Args:
            layer: A name in ``layers``.
            queries: Ints in 0..H*W-1, row by row.
            part: "both", or "content" or "position" for the softmax of that term of the logits alone.

        Raises:
            ValueError: No such layer or part, or the layer has not run while recording.
        """
        call = self.last(layer)
        with torch.autocast(call.input.device.type, call.autocast, enabled=call.autocast is not None):
            return self.layers[layer].maps(call.input, queries, part)

    def grid(self, layer: str) -> tuple[int, int]:
        """(H, W) of the layer's attention map."""
        with torch.no_grad():
            height, width = self.layers[layer].reduced(self.last(layer).input).shape[2:]
        return height, width

    def has_positions(self, layer: str) -> bool:
        """Whether the layer's logits have a term of relative positions."""
        expect_one_of("layer", layer, self.layers)
        return isinstance(self.layers[layer].position, RelativePosition2d)

    def last(self, layer: str) -> Call:
        """The layer's last run.

        Raises:
            ValueError: No such layer, or it has not run while recording.
        """
        expect_one_of("layer", layer, self.layers)
        if layer not in self.calls:
            raise ValueError(f"layer {layer!r} has not run while recording; call the model inside the with block")
        return self.calls[layer][-1]


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Record forward passes of ``model`` inside the ``with`` block, in whatever mode it is.

    Compiled networks run uncompiled meanwhile: what is compiled does not call us.

    Raises:
        ValueError: The model has no ``Attention2d``.
    """
    recording = Recording(model)
    if not recording.layers:
        raise ValueError(f"{type(model).__name__} has no attention layer to record")

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kind = inputs[0].device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
            recording.calls.setdefault(name, []).append(Call(inputs[0].detach(), dtype))

        return hook

    handles = [module.register_forward_pre_hook(keep(name)) for name, module in recording.layers.items()]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield recording
    finally:
        for handle in handles:
            handle.remove()
