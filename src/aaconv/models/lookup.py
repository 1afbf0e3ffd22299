"""Any network by name: ours, timm's or torchvision's."""

from __future__ import annotations

import inspect
from difflib import get_close_matches

import torch
from torch import nn

from aaconv.models.complexity import measure_complexity
from aaconv.models.registry import create_model, is_detector, list_models

TORCHVISION = "torchvision:"


def any_model(name: str) -> nn.Module:
    """The network ``name``, freshly initialised: one of ``list_models()``, of timm's, or "torchvision:NAME".

    Raises:
        ValueError: No such network; the nearest names are given.
    """
    if name.startswith(TORCHVISION):
        import torchvision

        known = torchvision.models.list_models()
        if name.removeprefix(TORCHVISION) in known:
            build = torchvision.models.get_model_builder(name.removeprefix(TORCHVISION))
            named = inspect.signature(build).parameters
            return build(**{kind: None for kind in ("weights", "weights_backbone") if kind in named})
        known = [TORCHVISION + other for other in known]
    else:
        import timm

        if name in list_models():
            return create_model(name)
        if timm.is_model(name):
            return timm.create_model(name)
        known = [*list_models(), *timm.list_models()]
    close = get_close_matches(name, known, n=3)
    raise ValueError(f"no model {name!r}" + (f"; nearest: {', '.join(close)}" if close else ""))


def finds_boxes(name: str) -> bool:
    """Whether the network ``name`` is a detector, of ours or of torchvision's."""
    if not name.startswith(TORCHVISION):
        return is_detector(name)
    import torchvision

    return name.removeprefix(TORCHVISION) in torchvision.models.list_models(torchvision.models.detection)


def describe(name: str) -> str:
    """A line with the network's name, parameters and operations at the image size that it was made for."""
    with torch.device("meta"):
        model = any_model(name)
    channels, height, width = getattr(model, "default_cfg", {"input_size": (3, 32, 32)})["input_size"]
    counted = measure_complexity(model, channels, (height, width))
    return (
        f"{name:<20} {counted.parameters / 1e6:8.3f} M parameters {counted.flops / 1e9:8.3f} GFLOPs at {height}x{width}"
    )
