"""Class activation maps, computed by captum, to stand beside attention.

Letters: n images, C channels, Y X an image in pixels, H W a map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def class_activation(model: nn.Module, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Grad-CAM of the last map that the network makes: where the evidence for a class is, [n, H, W], at least 0.

    Args:
        model: A classifier in evaluation mode.
        images: As it takes them, [n, C, Y, X].
        classes: Of which class of each image, [n]; None takes the likeliest.

    Raises:
        ModuleNotFoundError: captum is not installed.
        ValueError: The network makes no map of more than one cell.

    Source:
        Selvaraju et al. 2017, arXiv:1610.02391.
    """
    from captum.attr import LayerGradCam

    last, logits = _last_map(model, images)
    target = logits.argmax(dim=1) if classes is None else classes
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        found = LayerGradCam(model, last).attribute(images, target, relu_attributions=True)
    return found.detach()[:, 0]


def _last_map(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """The module that gives the last map of more than one cell, and the logits."""
    ended: list[nn.Module] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1:
            ended.append(module)

    handles = [module.register_forward_hook(keep) for module in model.modules() if module is not model]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not ended:
        raise ValueError(f"{type(model).__name__} makes no map to look at")
    return ended[-1], logits
