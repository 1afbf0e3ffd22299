"""Reading safetensors files of strangers: what a file declares is checked before memory is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import UninitializedParameter

from aaconv._checks import expect_utf8
from aaconv.nn.position import RelativePosition2d

MAX_FILE = 8 * 2**30  # bytes; the largest of our networks has 250 MB
MAX_HEADER = 8 * 2**20  # bytes of names, shapes and metadata; the largest of our networks has 0.2 MB
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
LISTED = 4  # names of each sort in a message
LONGEST = 100  # characters of a name in a message
CONVERT = (
    "it was written by torch.save and holds a pickle, which may run code and is never read here; where you trust it: "
    "safetensors.torch.save_file(torch.load(PATH, weights_only=True), NEW_PATH) for a dictionary of tensors"
)


class WeightsFile:
    """An open safetensors file: names, shapes and dtypes of its tensors; values only by ``read``.

    Args:
        file: As ``safe_open`` gives it.
        shown: What messages call it.
    """

    def __init__(self, file: Any, shown: str):
        self._file, self.shown = file, shown
        self.metadata: dict[str, str] = file.metadata() or {}
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
        self.dtypes = {name: str(part.get_dtype()) for name, part in parts.items()}
        self.size = 0  # bytes of all tensors

    def read(self, dtypes: dict[str, torch.dtype] | None = None) -> dict[str, Tensor]:
        """All tensors, those named in ``dtypes`` converted; ValueError for what is not finite (afterwards)."""
        weights = {name: self._file.get_tensor(name).to((dtypes or {}).get(name)) for name in self.shapes}
        bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
        if bad:
            raise ValueError(f"{self.shown} holds weights that are not finite: {listed(bad)}")
        return weights


@contextmanager
def open_weights(path: Path, shown: str | Path) -> Iterator[WeightsFile]:
    """Open a safetensors file, of which only the header is read.

    Raises:
        ValueError: No safetensors file, damaged, or larger than ``MAX_FILE`` or its header than ``MAX_HEADER``.
    """
    start = b""
    expect_utf8("a checkpoint", path)
    try:
        with path.open("rb") as raw:
            start, size = raw.read(8), path.stat().st_size
        header = int.from_bytes(start, "little")
        if size > MAX_FILE:
            raise ValueError(f"{shown} is no checkpoint for us: {size:,} bytes, the limit is {MAX_FILE:,}")
        if len(start) == 8 and MAX_HEADER < header <= size - 8:
            raise ValueError(f"{shown} is no checkpoint for us: a header of {header:,} bytes, limit {MAX_HEADER:,}")
        with safe_open(path, framework="pt") as file:
            opened = WeightsFile(file, str(shown))
            opened.size = size - 8 - header
            _expect_unique(path, header, shown)
            yield opened
    except (SafetensorError, OSError) as error:
        pickled = start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"  # a zip of torch.save's, or its older form
        raise ValueError(f"{shown} is no safetensors checkpoint: {CONVERT if pickled else error}") from error


def _expect_unique(path: Path, header: int, shown: str | Path) -> None:
    """Raise ValueError for names that stand twice in the header, of which readers may take either."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len(pairs) > len({name for name, _ in pairs}):
            raise ValueError(f"{shown} is no safetensors checkpoint: a name stands twice in its header")

    with path.open("rb") as raw:
        raw.seek(8)
        json.loads(raw.read(header), object_pairs_hook=unique)


def expect_fit(file: WeightsFile, model: nn.Module, what: str) -> dict[str, torch.dtype]:
    """The dtypes that ``model``, on any device, wants of the tensors of ``file``.

    Tables of relative positions may be of another grid: the layer refits them.

    Raises:
        ValueError: Names, shapes or kinds of numbers do not fit (all are told), or the network is far larger.
    """
    tables = _tables(model)
    wanted = {**model.state_dict(keep_vars=True), **{name: table for name, (table, _) in tables.items()}}
    shapes = {name: None if name in tables else tuple(value.shape) for name, value in wanted.items()}
    common = [name for name in shapes if name in file.shapes]
    misshapen = [
        f"{shorten(name)} {list(file.shapes[name])} instead of {_wanted_shape(name, shapes[name], tables)}"
        for name in common
        if not _shape_fits(file.shapes[name], shapes[name], tables.get(name))
    ]
    kinds = [
        f"{shorten(name)} {file.dtypes[name]} instead of {wanted[name].dtype}"
        for name in common
        if not _kind_fits(file.dtypes[name], wanted[name].dtype)
    ]
    missing = [name for name in wanted if name not in file.shapes]
    unknown = [name for name in file.shapes if name not in wanted]
    sorts = {"missing": missing, "unknown": unknown, "of another shape": misshapen, "of another kind": kinds}
    faults = [f"{len(names)} {sort}: {listed(names)}" for sort, names in sorts.items() if names]
    if faults:
        raise ValueError(f"{file.shown} does not fit its network {what}: {'; '.join(faults)}")
    size = sum(4 * value.numel() for value in wanted.values() if not isinstance(value, UninitializedParameter))
    if size > 4 * file.size + 2**26:  # position tables alone can be larger
        raise ValueError(f"{file.shown} does not fit its network {what}: {size:,} bytes, of which it has {file.size:,}")
    return {name: value.dtype for name, value in wanted.items()}


def build_empty(build: Callable[[], nn.Module], file: WeightsFile) -> nn.Module:
    """What ``build`` makes, without memory for its tensors; ValueError if it has far more of them than ``file``."""
    limit, count, thread = 4 * len(file.shapes) + 1000, 0, get_ident()

    def expect_few(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += get_ident() == thread
        if count > limit:
            raise ValueError(f"it has more than {limit} parameters, the file {len(file.shapes)} tensors")

    hook = register_module_parameter_registration_hook(expect_few)
    try:
        with torch.device("meta"):
            return build()
    finally:
        hook.remove()


def parse_entry(text: str) -> dict[str, Any]:
    """A JSON object of a file's metadata; ValueError otherwise."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"it must be a JSON object, got {type(values).__name__}")
    return values


def listed(names: list[str]) -> str:
    """The first names, shortened, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shorten(name) if " " not in name else name for name in names[:LISTED]) + more


def shorten(text: object) -> str:
    """At most ``LONGEST`` printable characters of ``text``."""
    line = " ".join(str(text).split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line[: LONGEST + 1])
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _tables(model: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Tables of relative positions by name, and their channels K."""
    return {
        f"{prefix}.{name}" if prefix else name: (getattr(module, name), module.channels)
        for prefix, module in model.named_modules()
        if isinstance(module, RelativePosition2d)
        for name in ("height", "width")
    }


def _shape_fits(found: tuple[int, ...], wanted: tuple[int, ...] | None, table: tuple[Tensor, int] | None) -> bool:
    if table is None:
        return found == wanted
    return len(found) == 2 and found[0] % 2 == 1 and found[1] == table[1]


def _wanted_shape(name: str, wanted: tuple[int, ...] | None, tables: dict[str, tuple[Tensor, int]]) -> str:
    return f"[an odd number, {tables[name][1]}]" if wanted is None else str(list(wanted))


def _kind_fits(found: str, wanted: torch.dtype) -> bool:
    if wanted.is_floating_point:
        return found in FLOATS
    return found == "BOOL" if wanted == torch.bool else found in INTEGERS
