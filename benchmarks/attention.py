"""The operation against what others do: parity first, then medians of interleaved repeats, and peak memory.

Run: python benchmarks/attention.py [--repeats 7] [--shape B,N,H,W,K,V ...] [--out FOLDER]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measuring import machine, markdown, peak_memory
from rivals import RIVALS, Attend
from torch import Tensor
from tqdm import tqdm

from aaconv._files import write_whole
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


def main() -> int:
    options = _options()
    torch.set_float32_matmul_precision("highest")
    contenders = contenders_here()
    wrong = [name for name, attend in contenders.items() if not agrees(attend)]
    if wrong:
        print(f"not timed: {', '.join(wrong)} differ from the formula in float64", file=sys.stderr)
        return 1
    shapes = options.shape or SHAPES
    rows: list[Row] = []
    for shape in tqdm(shapes, desc="shapes", disable=None):
        rows += measure(contenders, shape, options.repeats)
        rows += memory(shape) if options.memory else []
    for unit in ("ms", "MiB"):
        print("\n".join(markdown([row for row in rows if row["unit"] == unit])), end="\n\n")
    report = {"machine": machine(), "rows": rows}
    print(report["machine"])
    if options.out:
        text = json.dumps(report, indent=1)
        write_whole(options.out / "attention.json", lambda beside: beside.write_text(text, encoding="utf-8"))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), action="append")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, each in its own process")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write attention.json there too")
    return parser.parse_args()


def contenders_here() -> dict[str, Attend]:
    """Rivals, then our implementations that run on this device."""
    contenders = dict(RIVALS)
    for impl, implementation in IMPLEMENTATIONS.items():
        if impl != "reference" and implementation.unsupported_reason(torch.empty(1, 1), torch.empty(1, 1)) is None:
            contenders[impl] = lambda *tensors, grid, impl=impl: relative_attention_2d(*tensors, grid=grid, impl=impl)
    return contenders


def make(shape: Shape) -> list[Tensor]:
    """q, k, v, rel_h, rel_w in float32 that want gradients."""
    batch, heads, height, width, key, value = shape
    random = torch.Generator().manual_seed(0)
    sizes = [(batch, heads, height * width, channels) for channels in (key, key, value)]
    sizes += [(2 * height - 1, key), (2 * width - 1, key)]
    return [torch.randn(size, generator=random).requires_grad_() for size in sizes]


def agrees(attend: Attend) -> bool:
    """Output and gradients in float32 against the formula in float64, on a small uneven shape."""
    low = make((2, 3, 5, 8, 7, 4))
    high = [t.detach().double().requires_grad_() for t in low]
    got, wanted = attend(*low, grid=(5, 8)), RIVALS["materialised"](*high, grid=(5, 8))
    pairs = [(got, wanted)]
    pairs += zip(torch.autograd.grad(got.sum(), low), torch.autograd.grad(wanted.sum(), high), strict=True)
    return all(torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4) for a, b in pairs)


def infer(attend: Attend, tensors: list[Tensor], grid: tuple[int, int]) -> None:
    with torch.no_grad():
        attend(*tensors, grid=grid)


def step(attend: Attend, tensors: list[Tensor], grid: tuple[int, int]) -> None:
    torch.autograd.grad(attend(*tensors, grid=grid).sum(), tensors)


MODES = {"inference": infer, "training": step}


def measure(contenders: dict[str, Attend], shape: Shape, repeats: int) -> list[Row]:
    """Median milliseconds of inference and of a training step, contenders taking turns."""
    tensors, grid, rows = make(shape), (shape[2], shape[3]), []
    for mode, work in MODES.items():
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(repeats + 2):  # the first turns compile and warm up
            for name, attend in contenders.items():
                started = time.perf_counter()
                work(attend, tensors, grid)
                if turn > 1:
                    times[name].append(1e3 * (time.perf_counter() - started))
        case = {"shape": shape, "mode": mode, "unit": "ms"}
        rows += [{**case, "name": name, "value": statistics.median(t)} for name, t in times.items()]
    return rows


def memory(shape: Shape) -> list[Row]:
    """Peak MiB beside the inputs, of eager contenders, each in a fresh process."""
    rows = []
    for mode in MODES:
        for name in contenders_here():
            if "compiled" not in name:
                value = peak_memory(run_once, name, mode, shape)
                rows.append({"shape": shape, "mode": mode, "unit": "MiB", "name": name, "value": value})
    return rows


def run_once(name: str, mode: str, shape: Shape) -> None:
    """One call, for ``peak_memory``."""
    MODES[mode](contenders_here()[name], make(shape), (shape[2], shape[3]))


if __name__ == "__main__":
    sys.exit(main())
