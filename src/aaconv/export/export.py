"""Write a network as a file that runs elsewhere, and run that file beside the network before it gets its name.

Letters: B images, C channels, H W an image in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from errno import EISDIR
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from aaconv._checks import expect_int, expect_one_of, expect_pair
from aaconv._errors import Failed
from aaconv._files import write_whole
from aaconv.export.formats import FORMATS, OPSETS, Format, Runner
from aaconv.export.program import check_model, trace, traceable
from aaconv.training.checkpoint import load_checkpoint

TOLERANCE = 1e-5  # of the largest output, or of 1 where all are smaller


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared."""

    path: Path
    format: str
    error: float  # largest difference from the network, over the largest output or 1
    shapes: tuple[tuple[int, ...], ...]  # of the images that were compared, [B, C, H, W]
    least_edge: int  # pixels: least height and width of an image
    dynamic: bool  # whether batch, height and width are free

    def __str__(self) -> str:
        sizes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        free = f"any batch, height and width from {self.least_edge} pixels" if self.dynamic else "this size alone"
        return f"{self.path}: {free}; differs by {self.error:.1e} at most (compared at {sizes})"


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    format: str = "onnx",
    img_size: int | Sequence[int],
    channels: int = 3,
    dynamic: bool = True,
    opset: int = OPSETS[0],
    description: dict[str, Any] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Write ``model`` to ``path``; the file is run and compared before it is there.

    Position tables are fitted to the size of the map inside the program, as the layer does it. Of a detector the
    dense part is exported, ``Detector.dense_outputs``: normalised images [B, 3, H, W] -> logits [B, anchors, c] and
    boxes relative to their anchors [B, anchors, 4].

    Args:
        model: In evaluation mode, on the CPU, float32; takes [B, channels, H, W].
        format: "torch" (``torch.export.load`` reads it), "onnx" (any ONNX runtime) or "executorch" (devices; one
            fixed size, batch 1).
        img_size: Edge, or (height, width), in pixels, that the program is recorded with; the size if not ``dynamic``.
        channels: C.
        dynamic: Leave batch, height and width free.
        opset: Of ONNX: 18, 20 or 23.
        description: What the file shall say of itself, as JSON, where the format has room for it.
        on_step: Told of each step before it begins; the first two take from seconds to minutes.

    Raises:
        TypeError, ValueError: An argument breaks the rules above, or the network cannot be recorded.
        ModuleNotFoundError: The format's package is not installed.
        Failed: The file computes something else; none is left.
        OSError: It cannot be written.
    """
    kind = _check_target(format, Path(path), opset)
    size = expect_pair("img_size", img_size)
    expect_int("channels", channels)
    check_model(model)
    dynamic = dynamic and kind.any_size
    batch = 2 if kind.any_size else 1
    shapes = shapes_of(channels, size, dynamic=dynamic, batch=batch)
    on_step(f"recording the network with images of {list(shapes[0])}")
    _try(model, shapes)
    traced = trace(model, _images(shapes[0]), dynamic=dynamic)
    shapes = shapes_of(channels, size, dynamic=dynamic, batch=batch, least=traced.least_edge)
    error = 0.0

    def write(beside: Path) -> None:
        nonlocal error
        on_step(f"writing {path}")
        kind.write(traced, beside, json.dumps(description or {}), opset)
        on_step("running it beside the network")
        error = compare(model, kind.open(beside), shapes)

    write_whole(path, write)
    return Exported(Path(path), format, error, shapes, traced.least_edge, dynamic)


def export_checkpoint(
    checkpoint: str | Path, out: str | Path | None = None, *, format: str = "onnx", **options: Any
) -> Exported:
    """``export_model`` of a checkpoint's network; ``options`` are that function's.

    Args:
        checkpoint: A file of a run, or a packaged checkpoint's name.
        out: File to write; None puts the name of the checkpoint, with the format's ending, in the current folder.
    """
    path = Path(
        Path(checkpoint).stem + FORMATS[expect_one_of("format", format, FORMATS)].suffix if out is None else out
    )
    _check_target(format, path, options.get("opset", OPSETS[0]))
    model, card = load_checkpoint(checkpoint, detector=None)
    options = {"img_size": card.edge} | options
    return export_model(model, path, format=format, channels=card.channels, description=asdict(card), **options)


def compare(model: nn.Module, run: Runner, shapes: Sequence[tuple[int, ...]]) -> float:
    """Largest difference between ``run`` and ``model`` on random images of ``shapes``; Failed above ``TOLERANCE``."""
    part, _ = traceable(model)
    worst = 0.0
    for shape in shapes:
        images = _images(shape)
        with torch.no_grad():
            wanted, found = tree_leaves(part(images)), run(images)
        for want, got in zip(wanted, found, strict=True):
            if want.shape != got.shape:
                raise Failed(f"the exported file gives {list(got.shape)} for {list(shape)}, not {list(want.shape)}")
            worst = max(worst, _difference(want, got))
        if not worst <= TOLERANCE:
            raise Failed(f"the exported file differs from the network by {worst:.1e} for images of {list(shape)}")
    return worst


def _check_target(format: str, path: Path, opset: int) -> Format:
    """The format, if it is there and ``path`` may become a file of it."""
    kind = FORMATS[expect_one_of("format", format, FORMATS)]
    if opset not in OPSETS:
        raise ValueError(f"opset must be one of {', '.join(map(str, OPSETS))}, got {opset!r}")
    for package in kind.packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"format {format!r} needs the package {package!r}", name=package)
    if path.is_dir():
        raise IsADirectoryError(EISDIR, "the exported file must get a name of its own, got a folder", str(path))
    return kind


def _try(model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise ValueError unless ``model`` takes images of ``shapes``; tables that wait for an input get their size."""
    part, _ = traceable(model)
    for shape in shapes:
        try:
            with torch.no_grad():
                part(_images(shape))
        except (RuntimeError, ValueError, TypeError) as error:
            more = "" if shape == shapes[0] else "; export the one size that it takes with dynamic=False (--static)"
            raise ValueError(f"the network does not take images of {list(shape)}: {error}{more}") from error


def _difference(want: Tensor, got: Tensor) -> float:
    """Over the largest output or 1; infinite where either is not finite."""
    if not (want.isfinite().all() and got.isfinite().all()):
        return float("inf")
    return float((want - got).abs().max() / want.abs().max().clamp(min=1))


def shapes_of(
    channels: int, size: tuple[int, int], *, dynamic: bool, batch: int, least: int = 1
) -> tuple[tuple[int, int, int, int], ...]:
    """Shapes of images to record (the first) and to compare with, [B, C, H, W], no edge below ``least``."""
    height, width = size
    shapes = [(batch, channels, height, width)]
    if dynamic:  # one image, wider and higher; and smaller, of odd edges
        shapes.append((1, channels, height + height // 4, width + width // 8 + 1))
        shapes.append((3, channels, max(height // 2, least) | 1, max(width - width // 4, least) | 1))
    return tuple(shapes)


def _images(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
