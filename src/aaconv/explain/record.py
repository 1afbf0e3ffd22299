"""Remember what the attention layers of a network were given, and compute their maps from that.

Letters: B batch, N heads, Q queries, H W attention grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from aaconv._checks import expect_one_of
from aaconv.nn import Attention2d


class Recording:
    """The inputs that each ``Attention2d`` of a network saw last, by the layer's name."""

    def __init__(self, model: nn.Module):
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, Attention2d)}
        self.inputs: dict[str, Tensor] = {}

    def maps(self, layer: str, queries: Tensor | Sequence[int]) -> Tensor:
        """Attention weights of flat positions ``queries`` in ``layer``: [B, N, Q, H, W].

        Raises:
            ValueError: No such layer, or it has not run while recording.
        """
        expect_one_of("layer", layer, self.layers)
        if layer not in self.inputs:
            raise ValueError(f"layer {layer!r} has not run while recording; call the model inside the with block")
        return self.layers[layer].maps(self.inputs[layer], queries)


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Record forward passes of ``model`` inside the ``with`` block.

    Raises:
        ValueError: The model has no ``Attention2d``.
    """
    recording = Recording(model)
    if not recording.layers:
        raise ValueError(f"{type(model).__name__} has no attention layer to record")

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            recording.inputs[name] = inputs[0].detach()

        return hook

    handles = [module.register_forward_pre_hook(keep(name)) for name, module in recording.layers.items()]
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()
