"""From a network to a program of PyTorch's own operators, and what sizes it takes.

Letters: B images, C channels, H W an image in pixels.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

AXES = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True)
class Traced:
    """A program and what goes in and comes out."""

    program: ExportedProgram
    outputs: tuple[str, ...]
    least_edge: int  # pixels: least height and width that the program takes
    dynamic: bool  # whether batch, height and width are free


class _Dense(nn.Module):
    """What a detector computes for every image alike; choosing boxes depends on what is in it."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.detector.dense_outputs(images)  # type: ignore[operator]


def traceable(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The part of ``model`` that takes [B, C, H, W], and names of its outputs; others are numbered from the last on."""
    if hasattr(model, "dense_outputs"):
        return _Dense(model).train(model.training), ("logits", "boxes")
    return model, ("logits",)


def check_model(model: nn.Module) -> None:
    """Raise ValueError unless ``model`` computes in float32 and as it does in use."""
    if any(module.training for module in model.modules()):
        raise ValueError("model must be in evaluation mode, got training mode; call model.eval() first")
    kinds = {str(p.dtype) for p in model.parameters() if p.is_floating_point()} - {"torch.float32"}
    if kinds:
        raise ValueError(f"model must have float32 weights, got {', '.join(sorted(kinds))}; convert it with .float()")
    places = {p.device.type for p in model.parameters()} - {"cpu"}
    if places:
        raise ValueError(f"model must be on the CPU, got {', '.join(sorted(places))}; move it with .cpu()")


def trace(model: nn.Module, example: Tensor, *, dynamic: bool = True) -> Traced:
    """Record what ``model`` does with ``example`` [B, C, H, W], B at least 2, for any size if ``dynamic``.

    Raises:
        ValueError: It cannot be recorded, holds our kernels, or the network fixes the size of its images.
    """
    part, names = traceable(model)
    free = dict.fromkeys(AXES, Dim.AUTO) if dynamic else None
    try:
        with torch.no_grad():
            program = torch.export.export(part, (example,), dynamic_shapes=(free,))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"the network cannot be exported for images of {list(example.shape)}: {reason}") from error
    graphs = (m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule))
    ours = {str(n.target) for graph in graphs for n in graph.nodes if str(n.target).startswith("aaconv.")}
    if ours:
        raise ValueError(
            f"exported programs hold PyTorch's operators alone, got {', '.join(sorted(ours))}; build the layers with "
            "impl='auto' or impl='folded'"
        )
    found = _placeholder(program).shape
    stuck = [name for axis, name in AXES.items() if dynamic and isinstance(found[axis], int)]
    if stuck:
        raise ValueError(
            f"the network fixes {', '.join(stuck)} of its images; dynamic=False (--static) exports that size"
        )
    return Traced(program, names, _least_edge(program, found, example) if dynamic else min(example.shape[2:]), dynamic)


def _placeholder(program: ExportedProgram) -> Tensor:
    """The symbolic input."""
    name = program.graph_signature.user_inputs[0]
    return next(node.meta["val"] for node in program.graph.nodes if node.name == name)


def _least_edge(program: ExportedProgram, found: torch.Size, example: Tensor) -> int:
    """The least height and width that the program takes: no recorded bound is below, and its own checks let it pass."""
    bound = max(_bound(program, found[axis]) for axis in (2, 3))
    checks = getattr(program.module(), "_guards_fn", None)

    def passes(edge: int) -> bool:
        try:
            checks(torch.empty(*example.shape[:2], edge, edge, device="meta"))  # type: ignore[misc]
        except AssertionError:  # not all conditions are bounds: ceil(edge / 128) != 1
            return False
        return True

    edges = range(bound, max(*example.shape[2:], bound) + 1)
    return bound if checks is None or not passes(edges[-1]) else edges[bisect_left(edges, True, key=passes)]


def _bound(program: ExportedProgram, edge: Any) -> int:
    """The recorded bound of a symbolic edge. Tracing takes for granted that what is free is no 1."""
    bounds = program.range_constraints.get(edge.node.expr)
    lower = 1 if bounds is None else int(bounds.lower)
    return 1 if lower <= 2 else lower
