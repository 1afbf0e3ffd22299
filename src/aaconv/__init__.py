"""Attention-augmented convolution for PyTorch (Bello et al. 2019, arXiv:1904.09925)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aaconv.models import create_model, list_models
    from aaconv.nn import Attention2d, AttentionAugmentedConv2d, attention_channels
    from aaconv.ops import attention_maps_2d, relative_attention_2d
    from aaconv.surgery import augment

__version__ = "0.1.0"

__all__ = [
    "Attention2d",
    "AttentionAugmentedConv2d",
    "attention_channels",
    "attention_maps_2d",
    "augment",
    "create_model",
    "list_models",
    "relative_attention_2d",
]

_HOMES = {
    "Attention2d": "aaconv.nn",
    "AttentionAugmentedConv2d": "aaconv.nn",
    "attention_channels": "aaconv.nn",
    "attention_maps_2d": "aaconv.ops",
    "augment": "aaconv.surgery",
    "create_model": "aaconv.models",
    "list_models": "aaconv.models",
    "relative_attention_2d": "aaconv.ops",
}


def __getattr__(name: str) -> Any:
    """Public names, each imported from its home when first asked for: the command line answers without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'aaconv' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
