"""Time the operation against what others do: parity first, then medians of interleaved repeats.

Run: python benchmarks/attention.py [--repeats 7] [--json FILE]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rivals import RIVALS
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
Attend = Callable[..., Tensor]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    contenders: dict[str, Attend] = dict(RIVALS)
    for impl in IMPLEMENTATIONS:
        contenders[impl] = lambda *tensors, grid, impl=impl: relative_attention_2d(*tensors, grid=grid, impl=impl)
    wrong = [name for name, attend in contenders.items() if not agrees(attend)]
    if wrong:
        print(f"not timed: {', '.join(wrong)} differ from the formula in float64", file=sys.stderr)
        return 1
    rows = []
    for shape in tqdm(SHAPES, desc="shapes", disable=None):
        rows += measure(contenders, shape, options.repeats)
    report = {"machine": machine(), "rows": rows}
    print("\n".join(table(rows)))
    if options.json:
        write_whole(options.json, lambda beside: beside.write_text(json.dumps(report, indent=1), encoding="utf-8"))
    return 0


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v, rel_h, rel_w that want gradients."""
    batch, heads, height, width, key, value = shape
    random = torch.Generator().manual_seed(0)
    sizes = [(batch, heads, height * width, channels) for channels in (key, key, value)]
    sizes += [(2 * height - 1, key), (2 * width - 1, key)]
    return [torch.randn(size, generator=random, dtype=dtype).requires_grad_() for size in sizes]


def agrees(attend: Attend) -> bool:
    """Output and gradients in float32 against the formula in float64, on a small uneven shape."""
    shape = (2, 3, 5, 8, 7, 4)
    low, high = make(shape), [t.detach().double().requires_grad_() for t in make(shape)]
    wanted = RIVALS["materialised"](*high, grid=(5, 8))
    got = attend(*low, grid=(5, 8))
    pairs = [(got, wanted)]
    pairs += zip(torch.autograd.grad(got.sum(), low), torch.autograd.grad(wanted.sum(), high), strict=True)
    return all(torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4) for a, b in pairs)


def measure(contenders: dict[str, Attend], shape: tuple[int, ...], repeats: int) -> list[dict[str, object]]:
    """Median milliseconds of inference and of a training step, contenders taking turns."""
    tensors, grid = make(shape), (shape[2], shape[3])

    def infer(attend: Attend) -> None:
        with torch.no_grad():
            attend(*tensors, grid=grid)

    def step(attend: Attend) -> None:
        torch.autograd.grad(attend(*tensors, grid=grid).sum(), tensors)

    rows = []
    for mode, work in (("inference", infer), ("training", step)):
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(repeats + 1):  # the first turn warms up
            for name, attend in contenders.items():
                started = time.perf_counter()
                work(attend)
                if turn:
                    times[name].append(1e3 * (time.perf_counter() - started))
        rows += [{"shape": shape, "mode": mode, "name": n, "ms": statistics.median(t)} for n, t in times.items()]
    return rows


def table(rows: list[dict[str, object]]) -> list[str]:
    """Markdown: a line a shape and mode, a column a contender, milliseconds."""
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    lines = [f"| B, N, H, W, K, V | mode | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    keys = dict.fromkeys((row["shape"], row["mode"]) for row in rows)
    for shape, mode in keys:
        found = {row["name"]: row["ms"] for row in rows if (row["shape"], row["mode"]) == (shape, mode)}
        cells = " | ".join(f"{found[name]:.1f}" for name in names)
        lines.append(f"| {', '.join(map(str, shape))} | {mode} | {cells} |")
    return lines


def machine() -> dict[str, object]:
    """Hardware and versions that the figures belong to."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}


if __name__ == "__main__":
    sys.exit(main())
