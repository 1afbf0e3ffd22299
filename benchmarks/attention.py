"""The operation against what others do: parity first, then medians of interleaved repeats, and peak memory.

Run: python benchmarks/attention.py [--repeats 7] [--shape B,N,H,W,K,V ...] [--only NAME ...] [--memory]
     [--out FOLDER] [--device cuda --dtype bfloat16 [--tf32]]
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from measuring import machine, markdown, peak_memory
from rivals import Attend, materialised, rivals_on
from timing import floors, milliseconds, peak_on_gpu
from torch import Tensor
from tqdm import tqdm

from aaconv._files import write_text
from aaconv.ops.relative_attention import IMPLEMENTATIONS, relative_attention_2d

SHAPES = [  # B, N, H, W, K, V
    (8, 8, 7, 7, 20, 6),
    (8, 8, 14, 14, 20, 3),
    (8, 8, 28, 28, 20, 2),
    (4, 8, 32, 32, 20, 4),
    (1, 8, 64, 64, 20, 4),
    (1, 8, 50, 84, 20, 8),
    (2, 4, 16, 40, 32, 32),
]
Shape = tuple[int, ...]
Row = dict[str, Any]


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU = torch.device("cpu")


def main() -> int:
    options = _options()
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    contenders = chosen(contenders_here(device), options.only)
    wrong = [name for name, attend in contenders.items() if not agrees(attend, device, dtype, exact=not options.tf32)]
    if wrong:
        print(f"not timed: {', '.join(wrong)} differ from the formula in float64", file=sys.stderr)
        return 1
    shapes = options.shape or SHAPES
    rows: list[Row] = []
    for shape in tqdm(shapes, desc="shapes", disable=None):
        rows += measure(contenders, shape, options.repeats, device, dtype)
        rows += memory(contenders, shape, device, dtype) if options.memory else []
    for unit in ("ms", "MiB"):
        print("\n".join(markdown([row for row in rows if row["unit"] == unit])), end="\n\n")
    report = {"machine": machine(device), "dtype": options.dtype, "tf32": options.tf32, "rows": rows}
    print(report["machine"])
    if options.out:
        text = json.dumps(report, indent=1)
        write_text(options.out / "attention.json", text)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), action="append")
    parser.add_argument("--only", action="append", metavar="NAME", help="contender to measure (default: all)")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write attention.json there too")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--tf32", action="store_true", help="let products of float32 round to TF32")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    return options


def contenders_here(device: torch.device = CPU) -> dict[str, Attend]:
    """Rivals, then our implementations that run on ``device``."""
    contenders, here = rivals_on(device), torch.empty(1, 1, device=device)
    for impl, implementation in IMPLEMENTATIONS.items():
        if impl != "reference" and implementation.unsupported_reason(here, here) is None:
            contenders[impl] = lambda *tensors, grid, impl=impl: relative_attention_2d(*tensors, grid=grid, impl=impl)
    return contenders


def chosen(contenders: dict[str, Attend], names: list[str] | None) -> dict[str, Attend]:
    """Those of ``names``, all without any."""
    if lost := set(names or ()) - set(contenders):
        raise SystemExit(f"--only must name one of {sorted(contenders)}, got {sorted(lost)}")
    return {name: attend for name, attend in contenders.items() if not names or name in names}


def make(shape: Shape, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v, rel_h, rel_w that want gradients."""
    batch, heads, height, width, key, value = shape
    random = torch.Generator().manual_seed(0)
    sizes = [(batch, heads, height * width, channels) for channels in (key, key, value)]
    sizes += [(2 * height - 1, key), (2 * width - 1, key)]
    return [torch.randn(size, generator=random).to(device, dtype).requires_grad_() for size in sizes]


def agrees(attend: Attend, device: torch.device = CPU, dtype: torch.dtype = torch.float32, exact: bool = True) -> bool:
    """Output and gradients against the formula in float64, on a small uneven shape.

    In float32 they have to be close; in lower precision the error may be three times that of the plain formula.
    """
    low = make((2, 3, 5, 8, 7, 4), device, dtype)
    high = [t.detach().double().requires_grad_() for t in low]
    got, wanted = _results(attend, low), _results(materialised, high)
    if exact and dtype == torch.float32:
        return all(torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4) for a, b in zip(got, wanted, strict=True))
    plain = _results(materialised, low)
    return all(_error(a, c) <= 3 * max(_error(b, c), 1e-5) for a, b, c in zip(got, plain, wanted, strict=True))


def _results(attend: Attend, tensors: list[Tensor]) -> list[Tensor]:
    out = attend(*tensors, grid=(5, 8))
    return [out, *torch.autograd.grad(out.sum(), tensors)]


def _error(got: Tensor, wanted: Tensor) -> float:
    return (got.double() - wanted).square().mean().sqrt().item()


def infer(attend: Attend, tensors: list[Tensor], grid: tuple[int, int]) -> None:
    with torch.no_grad():
        attend(*tensors, grid=grid)


def step(attend: Attend, tensors: list[Tensor], grid: tuple[int, int]) -> None:
    torch.autograd.grad(attend(*tensors, grid=grid).sum(), tensors)


MODES = {"inference": infer, "training": step}


def measure(
    contenders: dict[str, Attend],
    shape: Shape,
    repeats: int,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> list[Row]:
    """Median milliseconds of inference and of a training step, contenders taking turns."""
    tensors, grid, rows = make(shape, device, dtype), (shape[2], shape[3]), []
    least = floors(shape, dtype) if device.type == "cuda" else {}
    for mode, work in MODES.items():
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(repeats + 2):  # the first turns compile and warm up
            for name, attend in contenders.items():
                taken = milliseconds(device, work, attend, tensors, grid)
                if turn > 1:
                    times[name].append(taken)
        case = {"shape": shape, "mode": mode, "unit": "ms"}
        rows += [{**case, "name": name, "value": statistics.median(t), "all": t} for name, t in times.items()]
        rows += [{**case, "name": name, "value": values[mode]} for name, values in least.items()]
    return rows


def memory(
    contenders: dict[str, Attend],
    shape: Shape,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> list[Row]:
    """Peak MiB: on the CPU inputs included, eager contenders in fresh processes; on a GPU beside the inputs."""
    rows = []
    for mode, work in MODES.items():
        for name, attend in contenders.items():
            if device.type == "cuda":
                tensors, grid = make(shape, device, dtype), (shape[2], shape[3])
                value = peak_on_gpu(work, attend, tensors, grid)
            elif "compiled" in name:
                continue
            else:
                value = peak_memory(run_once, name, mode, shape)
            rows.append({"shape": shape, "mode": mode, "unit": "MiB", "name": name, "value": value})
    return rows


def run_once(name: str, mode: str, shape: Shape) -> None:
    """One call, for ``peak_memory``."""
    MODES[mode](contenders_here()[name], make(shape), (shape[2], shape[3]))


if __name__ == "__main__":
    sys.exit(main())
