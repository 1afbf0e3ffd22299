"""Every network as an exported file: how far its results are from the network's, and onnxruntime's time.

Run: python benchmarks/exporting.py [--networks PATTERN ...] [--opset 18 20 23] [--repeats 9] [--out FOLDER]

Networks have drawn norms, as after training. A second call with the same folder adds what is missing.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from torch import nn

from aaconv import create_model, list_models
from aaconv._files import write_text
from aaconv.export.export import compare, shapes_of
from aaconv.export.formats import FORMATS, OPSETS
from aaconv.export.program import trace

TIMED = ("aa_resnet50", "resnet50", 224)  # augmented, plain, edge of one image
EDGES = {"retina": 192, "wrn": 32, "resnet10": 64}  # pixels by a part of the name; others 128


def main() -> int:
    options = _options()
    path = options.out and options.out / "exporting.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path and path.exists() else []
    names = sorted({name for pattern in options.networks for name in list_models(pattern)})
    done = {(row["network"], row["name"]) for row in rows}
    formats = {"torch": ("torch", 0)} | {f"onnx {opset}": ("onnx", opset) for opset in options.opset}
    for name in names:
        missing = [label for label in formats if (name, label) not in done]
        if missing:
            rows += measure(name, {label: formats[label] for label in missing})
            _say(rows[-len(missing) :])
            _write(path, rows)
    if options.repeats:
        rows = [row for row in rows if row["unit"] != "ms"] + time_onnx(options.opset, options.repeats)
        _say(row for row in rows if row["unit"] == "ms")
        _write(path, rows)
    print(machine())
    return 0


def measure(name: str, formats: dict[str, tuple[str, int]]) -> list[dict[str, Any]]:
    """Error of a file of each format and opset, over the largest output or 1."""
    edge = next((edge for part, edge in EDGES.items() if part in name), 128)
    model = lively(create_model(name, img_size=edge))
    shapes = shapes_of(3, (edge, edge), dynamic=True, batch=2)
    traced = trace(model, torch.randn(shapes[0]))
    shapes = shapes_of(3, (edge, edge), dynamic=True, batch=2, least=traced.least_edge)
    rows = []
    for label, (kind, opset) in formats.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network"
            FORMATS[kind].write(traced, path, "{}", opset)
            error = compare(model, FORMATS[kind].open(path), shapes)
        rows.append({"network": name, "name": label, "unit": "error", "value": error})
    return rows


def lively(model: nn.Module) -> nn.Module:
    """``model`` in evaluation mode, its norms as if trained."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    return model.eval()


def time_onnx(opsets: list[int], repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of onnxruntime for one image, augmented and plain in turns."""
    *names, edge = TIMED
    rows = []
    for opset in opsets:
        with tempfile.TemporaryDirectory() as folder:
            runs = {name: _session(name, edge, opset, Path(folder) / name) for name in names}
            taken: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(repeats + 1):
                for name, run in runs.items():
                    started = time.perf_counter()
                    run(torch.randn(1, 3, edge, edge))
                    if turn:  # the first one plans memory
                        taken[name].append(1e3 * (time.perf_counter() - started))
        case = {"unit": "ms", "shape": [1, 3, edge, edge]}
        for name, all_ in taken.items():
            label = f"onnx {opset}"
            rows.append({"network": name, "name": label, **case, "value": statistics.median(all_), "all": all_})
    return rows


def _session(name: str, edge: int, opset: int, path: Path) -> Any:
    FORMATS["onnx"].write(trace(lively(create_model(name)), torch.randn(2, 3, edge, edge)), path, "{}", opset)
    return FORMATS["onnx"].open(path)


def _say(rows: Any) -> None:
    for row in rows:
        print(f"{row['network']:<28} {row['name']:<8} {row['unit']} {row['value']:.3g}", flush=True)


def _write(path: Path | None, rows: list[dict[str, Any]]) -> None:
    if path:
        write_text(path, json.dumps({"machine": machine(), "rows": rows}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of names")
    parser.add_argument("--opset", type=int, nargs="+", default=list(OPSETS), choices=OPSETS, help="of ONNX")
    parser.add_argument("--repeats", type=int, default=9, help="of timing; 0 leaves it out")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write exporting.json there too")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
