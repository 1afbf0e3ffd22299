"""From names to networks: every network is a row of a table."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from aaconv._checks import expect_int
from aaconv.models.small import SPECS, SmallResNet


def create_model(name: str, *, num_classes: int = 1000, in_chans: int = 3, **changes: Any) -> SmallResNet:
    """The network in row ``name`` of the tables, freshly initialised.

    Args:
        name: One of ``list_models()``.
        num_classes: Logits.
        in_chans: Image channels.
        changes: Cells of the row to override, such as ``position="sine"`` or ``image_size=64``.

    Raises:
        ValueError: No such network (the nearest names are given), or an impossible cell.
        TypeError: No such cell.
    """
    check_model_name(name)
    expect_int("num_classes", num_classes)
    expect_int("in_chans", in_chans)
    return SmallResNet(replace(SPECS[name], **changes), num_classes, in_chans)


def check_model_name(name: str) -> None:
    """Raise ValueError with the nearest names unless ``name`` is a network's."""
    if name not in SPECS:
        close = get_close_matches(str(name), SPECS, n=3) or list_models()
        raise ValueError(f"no model {name!r}; nearest: {', '.join(close)}")


def list_models(pattern: str = "*") -> list[str]:
    """Names of all networks that match a shell pattern, sorted."""
    return sorted(name for name in SPECS if fnmatchcase(name, pattern))
