"""The formats: how a program becomes a file, and how that file is run.

Letters: B images, C channels, H W an image in pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from aaconv.export.program import Traced

OPSETS = (18, 20, 23)  # of ONNX that are tested
KEY = "aaconv"  # of the description in a file's metadata

Runner = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    suffix: str
    write: Callable[[Traced, Path, str, int], None]  # (program, file, description, opset)
    open: Callable[[Path], Runner]
    packages: tuple[str, ...] = ()  # that it takes beside torch
    any_size: bool = True  # whether it holds programs of free batch, height and width


def _write_torch(traced: Traced, path: Path, description: str, opset: int) -> None:
    content = BytesIO()  # on a full disk PyTorch's writer would end the process
    torch.export.save(traced.program, content, extra_files={f"{KEY}.json": description})
    path.write_bytes(content.getbuffer())


def _open_torch(path: Path) -> Runner:
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda images: tree_leaves(module(images))


def _write_onnx(traced: Traced, path: Path, description: str, opset: int) -> None:
    with _quiet():
        program = torch.onnx.export(
            traced.program,
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=list(traced.outputs),
            verbose=False,
            optimize=False,  # its search for patterns takes minutes, growing with the square of the graph
        )
        assert program is not None
        _simplify(program.model)
    program.model.metadata_props[KEY] = description
    program.save(path, external_data=False)


def _simplify(model: Any) -> None:
    """Compute what does not depend on the images and leave out what is there twice, in place."""
    import onnx_ir.passes.common as passes
    from onnx_ir.passes import Sequential
    from onnxscript.optimizer import fold_constants

    passes.InlinePass()(model)
    fold_constants(model)
    Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def _open_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()})]


def _write_executorch(traced: Traced, path: Path, description: str, opset: int) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with _quiet():
        lowered = to_edge_transform_and_lower(traced.program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with path.open("wb") as file:
        lowered.write_to_file(file)


def _open_executorch(path: Path) -> Runner:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda images: list(method.execute([images]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters tell of their own insides."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


FORMATS = {
    "torch": Format(".pt2", _write_torch, _open_torch),
    "onnx": Format(".onnx", _write_onnx, _open_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "executorch": Format(".pte", _write_executorch, _open_executorch, ("executorch",), any_size=False),
}
