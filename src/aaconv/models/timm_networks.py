"""The networks with parts of timm's, registered with ``timm.create_model`` when this is imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from torch import nn

from aaconv.models import mnasnet, resnet, small, wide_resnet

# Networks of the paper that timm has, and that are not registered a second time.
THEIRS = ("resnet34", "resnet50", "resnet101", "resnet152", "seresnet34", "seresnet50", "seresnet101", "seresnet152")
_PHOTOGRAPHS = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
}
_CIFAR = {
    "num_classes": 100,
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.5071, 0.4865, 0.4409),
    "std": (0.2673, 0.2564, 0.2762),
}
# Class, rows, preprocessing, names of first convolution and classifier, what extracts features.
_FAMILIES: tuple[tuple[Callable[..., nn.Module], dict[str, Any], dict[str, Any], str], ...] = (
    (resnet.AugmentedResNet, resnet.SPECS, {**_PHOTOGRAPHS, "first_conv": "conv1", "classifier": "fc"}, "list"),
    (
        mnasnet.AugmentedMnasNet,
        mnasnet.SPECS,
        {**_PHOTOGRAPHS, "first_conv": "conv_stem", "classifier": "classifier"},
        "getter",
    ),
    (wide_resnet.WideResNet, wide_resnet.SPECS, {**_CIFAR, "first_conv": "conv1", "classifier": "fc"}, "list"),
    (small.SmallResNet, small.SPECS, {**_CIFAR, "first_conv": "stem.0", "classifier": "head"}, "hook"),
)
default_cfgs: Any = generate_default_cfgs({name: cfg for _, specs, cfg, _ in _FAMILIES for name in specs})


def _register(name: str, build: Callable[..., nn.Module], features: str) -> Callable[..., nn.Module]:
    """timm's entry point for the network ``name``."""
    if is_model(name):
        raise ValueError(f"timm has a model {name!r} already, give the row another name")

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return build_model_with_cfg(build, name, pretrained, feature_cfg={"feature_cls": features}, **options)

    entry.__name__ = name
    return register_model(entry)


for _build, _specs, _, _features in _FAMILIES:
    for _name, _spec in _specs.items():
        _register(_name, partial(_build, _spec), _features)


def _without_tables(name: str, img_size: object = None, **options: Any) -> nn.Module:
    """A network of timm's: it has no position tables for an image size to decide."""
    return timm.create_model(name, **options)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(_without_tables, name) for name in THEIRS},
    **{name: partial(timm.create_model, name) for _, rows, _, _ in _FAMILIES for name in rows},
}
