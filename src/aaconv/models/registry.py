"""From names to networks: every network is a row of a table."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

from torch import nn

from aaconv._checks import expect_int
from aaconv.models.small import SPECS, SmallResNet


def create_model(name: str, *, num_classes: int | None = None, in_chans: int = 3, **changes: Any) -> nn.Module:
    """The network in row ``name`` of the tables, freshly initialised.

    Args:
        name: One of ``list_models()``.
        num_classes: Logits; None takes what the network was made for, 100 for CIFAR's, 80 for detectors and 1000 for
            others.
        in_chans: Image channels.
        changes: Cells of the row to override, such as ``position="sine"`` or ``img_size=64``, and what timm's networks
            take: ``drop_path_rate``, ``global_pool``, ``features_only``, ...

    Raises:
        ValueError: No such network (the nearest names are given, and which packages bring more), or an impossible cell.
        TypeError: No such cell.
    """
    check_model_name(name)
    expect_int("in_chans", in_chans)
    if num_classes is not None:
        expect_int("num_classes", num_classes, minimum=0)
    options = {**changes, "in_chans": in_chans} | ({} if num_classes is None else {"num_classes": num_classes})
    built = {**_timm_networks(), **_detectors()}
    return (built.get(name) or partial(SmallResNet, SPECS[name]))(**options)


def check_model_name(name: str) -> None:
    """Raise ValueError with the nearest names unless ``name`` is a network's."""
    names = list_models()
    if name in names:
        return
    close = get_close_matches(str(name), names, n=3) or names
    lacking = " and ".join(_missing())
    hint = f"; without {lacking} only some are there: pip install 'aaconv[vision]'" if lacking else ""
    raise ValueError(f"no model {name!r}; nearest: {', '.join(close)}{hint}")


def list_models(pattern: str = "*") -> list[str]:
    """Names of all networks that match a shell pattern, sorted; without timm the small ones alone."""
    return sorted(name for name in {*SPECS, *_timm_networks(), *_detectors()} if fnmatchcase(name, pattern))


def is_detector(name: str) -> bool:
    """Whether the network ``name`` finds boxes; else it is a classifier."""
    return name in _detectors()


@cache
def _detectors() -> dict[str, Callable[..., nn.Module]]:
    """Functions that build the detectors, which are torchvision's around bodies of timm's."""
    if _missing():
        return {}
    from aaconv.models import retinanet

    return retinanet.DETECTORS


@cache
def _timm_networks() -> dict[str, Callable[..., nn.Module]]:
    """Functions that build the networks with parts of timm's."""
    if _missing():
        return {}
    from aaconv.models import timm_networks

    return timm_networks.NETWORKS


def _missing() -> list[str]:
    """Packages of the larger networks that are not installed: timm needs torchvision, and that PIL."""
    return [name for name in ("timm", "torchvision", "PIL") if find_spec(name) is None]
