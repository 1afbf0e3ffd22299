"""What surgery did to a network: printable, and exact enough to do it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from aaconv._checks import expect_int, expect_number, expect_pair


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A convolution that became an augmented one."""

    name: str
    grid: tuple[int, int]  # of the attention map
    pool: int
    key_channels: int  # d_k
    value_channels: int  # d_v
    num_heads: int
    parameters: tuple[int, int]  # before and after
    gflops: tuple[float, float]  # of one image, two for each multiply-accumulate
    memory_mb: tuple[float, float]  # float32 activations of one image, in 10^6 bytes


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A convolution that stayed as it was."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All convolutions of a network, in the order in which they run, and how the replaced ones were made."""

    image_size: tuple[int, int]
    position: str
    replaced: tuple[Replaced, ...]
    skipped: tuple[Skipped, ...]

    def __str__(self) -> str:
        header = ("replaced", "map", "pool", "d_k", "d_v", "heads", "parameters", "GFLOPs", "activations MB")
        lines = [header, *(self._cells(row) for row in self.replaced), self._total()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        reasons = Counter(row.reason for row in self.skipped)
        text += [f"{count} convolutions stay: {reason}" for reason, count in reasons.most_common()]
        return "\n".join(text)

    @staticmethod
    def _cells(row: Replaced) -> tuple[str, ...]:
        numbers = (row.pool, row.key_channels, row.value_channels, row.num_heads)
        changes = (
            f"{row.parameters[0]:,} -> {row.parameters[1]:,}",
            f"{row.gflops[0]:.3f} -> {row.gflops[1]:.3f}",
            f"{row.memory_mb[0]:.2f} -> {row.memory_mb[1]:.2f}",
        )
        return (row.name, f"{row.grid[0]}x{row.grid[1]}", *map(str, numbers), *changes)

    def _total(self) -> tuple[str, ...]:
        changes = (
            f"{sum(row.parameters[1] - row.parameters[0] for row in self.replaced):+,}",
            f"{sum(row.gflops[1] - row.gflops[0] for row in self.replaced):+.3f}",
            f"{sum(row.memory_mb[1] - row.memory_mb[0] for row in self.replaced):+.2f}",
        )
        return (f"{len(self.replaced)} layers", "", "", "", "", "", *changes)

    def to_json(self) -> str:
        """The report as JSON, for ``from_json``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that ``to_json`` wrote; ValueError for anything else."""
        try:
            found = json.loads(text)
            return cls(
                image_size=expect_pair("image_size", found["image_size"]),
                position=_text("position", found["position"]),
                replaced=tuple(map(_replaced, found["replaced"])),
                skipped=tuple(Skipped(**{name: _text(name, row[name]) for name in row}) for row in found["skipped"]),
            )
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"text must be what Report.to_json wrote: {error!r}") from error


def _replaced(row: dict[str, Any]) -> Replaced:
    """A row of the file, checked: it decides what layers are built."""
    numbers = ("pool", "key_channels", "value_channels", "num_heads")
    return Replaced(
        **{
            **row,
            **{name: expect_int(name, row[name]) for name in numbers},
            **{name: _two(name, row[name], expect_number) for name in ("gflops", "memory_mb")},
            "name": _text("name", row["name"]),
            "grid": expect_pair("grid", row["grid"]),
            "parameters": _two("parameters", row["parameters"], partial(expect_int, minimum=0)),
        }
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {type(value).__name__}")
    return value


def _two(name: str, value: Any, expect: Callable[[str, Any], Any]) -> tuple[Any, Any]:
    """Before and after."""
    before, after = value
    return expect(name, before), expect(name, after)
