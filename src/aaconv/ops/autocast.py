"""Autocast, applied once to the arguments; inside an implementation dtypes are then its own affair."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def cast_arguments(device: str, *tensors: Tensor | None) -> list[Any]:
    """What autocast would do to the arguments of a matrix product: all but float64 become its dtype."""
    if not _autocasts(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def no_autocast(device: str) -> AbstractContextManager[Any]:
    """A context in which autocast is off."""
    return torch.autocast(device, enabled=False) if _autocasts(device) else nullcontext()


def _autocasts(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)
