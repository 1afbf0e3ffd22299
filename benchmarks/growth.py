"""How time and memory of the kernels grow with the map: against the quadratic arithmetic and the line L (H + W).

Run: python benchmarks/growth.py --out FOLDER
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from attention import MODES, contenders_here, make, measure, run_once
from matplotlib.figure import Figure
from measuring import machine, peak_memory
from tqdm import tqdm

from aaconv._files import write_text, write_whole

EDGES = (16, 24, 32, 48, 64, 96, 128)
IMPL = "cpu"
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="growth.json and growth.png go there")
    folder = parser.parse_args().out
    rows: list[Row] = []
    for edge in tqdm(EDGES, desc="edges", disable=None):
        shape = (1, 4, edge, edge, 20, 4)
        make(shape)
        times = measure({IMPL: contenders_here()[IMPL]}, shape, 3)
        for row in times:
            row |= {"edge": edge, "MiB": peak_memory(run_once, IMPL, row["mode"], shape)}
            rows.append(row)
            print(f"{edge:4} {row['mode']:<10} {row['value']:9.1f} ms {row['MiB']:8.1f} MiB")
    text = json.dumps({"machine": machine(), "rows": rows}, indent=1)
    write_text(folder / "growth.json", text)
    write_whole(folder / "growth.png", lambda beside: plot(rows).savefig(beside, format="png", dpi=120))
    return 0


def plot(rows: list[Row]) -> Figure:
    """Measured points, and the expected growth through the last of them."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, unit, power in zip(figure.subplots(1, 2), ("value", "MiB"), (4, 3), strict=True):
        for mode in MODES:
            found = [row for row in rows if row["mode"] == mode]
            edges, values = [row["edge"] for row in found], [row[unit] for row in found]
            (line,) = axes.plot(edges, values, "o", label=mode)
            expected = [values[-1] * (edge / edges[-1]) ** power for edge in edges]
            axes.plot(edges, expected, "-", linewidth=1, color=line.get_color())
        axes.set(xscale="log", yscale="log", xlabel="edge of the map, H = W", ylabel="ms" if unit == "value" else unit)
        axes.set_xticks(EDGES, EDGES)
        axes.minorticks_off()
        axes.set_title("time; lines: L squared" if unit == "value" else "peak memory; lines: L (H + W)", fontsize=10)
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
