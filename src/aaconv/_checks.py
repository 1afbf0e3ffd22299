"""Checks of arguments: every message names the argument, the rule, what came and what would do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def expect_int(name: str, value: Any, minimum: int = 1) -> int:
    """``value`` as an int of at least ``minimum``; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {name}={value}")
    return value


def expect_pair(name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    """An int or two ints (vertical, horizontal) as two ints of at least ``minimum``."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{name} must be one int or two (vertical, horizontal), got {value!r}")
    return expect_int(name, values[0], minimum), expect_int(name, values[1], minimum)


def expect_divisible(name: str, value: int, by_name: str, by: int) -> None:
    """Raise unless ``value`` is a multiple of ``by``; the message names the nearest multiples."""
    if value % by:
        below = value - value % by
        nearest = sorted({below, below + by} - {0})
        raise ValueError(f"{name} must be a multiple of {by_name}={by}, got {name}={value}; nearest: {nearest}")


def expect_ratio(name: str, value: Any, *, zero: bool = False) -> float:
    """``value`` as a share in (0, 1], or in [0, 1] with ``zero``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    if not (0 <= value <= 1 if zero else 0 < value <= 1):
        raise ValueError(f"{name} must lie in {'[' if zero else '('}0, 1], got {name}={value}")
    return float(value)


def expect_number(name: str, value: Any, *, zero: bool = True) -> float:
    """``value`` as a finite number of at least 0, or above 0 without ``zero``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be {'at least' if zero else 'above'} 0 and finite, got {name}={value}")
    return float(value)


def expect_one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """``value`` if it is one of ``allowed``; otherwise a ValueError that suggests the closest."""
    names = sorted(allowed)
    if value not in names:
        close = get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} must be one of {names}, got {value!r}{hint}")
    return value


def expect_file(name: str, path: str | Path, most: int | None = None) -> Path:
    """``path`` if it is a file of at most ``most`` bytes; reading a device may never end, a pipe not even begin.

    Raises:
        FileNotFoundError: There is none, or a folder, device or pipe.
        ValueError: It is larger.
    """
    file = Path(path)
    shown = repr(str(path))[1:-1]  # whatever a name holds
    if not file.is_file():
        there = "is a folder, not a file" if file.is_dir() else "is a device or pipe, not a file"
        raise FileNotFoundError(f"{name} {shown} {there if file.exists() else 'does not exist'}")
    if most is not None and (size := file.stat().st_size) > most:
        raise ValueError(f"{name} {shown} must be at most {most} bytes, got {size}")
    return file


def expect_utf8(name: str, path: str | Path) -> None:
    """Raise ValueError if bytes of the name are no UTF-8: TensorBoard and safetensors take no such names."""
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        raise ValueError(
            f"{name} must have a name in UTF-8, got {str(path)!r}; take another name, or a locale such as C.UTF-8"
        )


def expect_shape(name: str, tensor: Any, shape: Sequence[int | str]) -> None:
    """Raise unless ``tensor`` is a floating-point tensor of ``shape``; letters in ``shape`` are free sizes."""
    from torch import Tensor  # here, so that checking a configuration does not wait for torch

    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(sizes, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(want) for want in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(sizes)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got dtype={tensor.dtype}; convert it with .float()")
