"""The maps that a network's convolutions work on, found by running it once without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

Size = tuple[int, int]
Maps = dict[str, list[tuple[Size, Size]]]  # by name, in the order of the first calls: input and output of each call


def trace_maps(model: nn.Module, shape: tuple[int, int, int]) -> Maps:
    """Sizes of input and output map of each call of each ``nn.Conv2d`` of ``model`` on an image of ``shape``.

    Raises:
        ValueError: The network does not run on such an image.
    """
    try:
        return _run(deepcopy(model).to("meta"), torch.device("meta"), shape)
    except Exception:  # not every network runs on the meta device
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with _as_found(model):
            return _run(model, device, shape)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"the model does not run on an image of {list(shape)} (channels, height, width): {first}; "
            f"give img_size, and in_chans if it is no matter of the first convolution"
        ) from error


def _run(model: nn.Module, device: torch.device, shape: tuple[int, int, int]) -> Maps:
    maps: Maps = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps.setdefault(name, []).append((_size(inputs[0]), _size(output)))

        return hook

    hooks = [m.register_forward_hook(note(n)) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape, device=device, dtype=dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def _size(x: Tensor) -> Size:
    return int(x.shape[-2]), int(x.shape[-1])


@contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """Give each module its training mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
