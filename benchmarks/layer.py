"""The whole layer against the plain 3x3 convolution it replaces, inference in float32.

Run: python benchmarks/layer.py [--repeats 15] [--out FOLDER]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from measuring import machine
from torch import nn

from aaconv import AttentionAugmentedConv2d
from aaconv._files import write_text

BATCH, CHANNELS, EDGE, KEYS, VALUES = 8, 128, 28, 160, 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write layer.json there too")
    options = parser.parse_args()
    shape = {"key_channels": KEYS, "value_channels": VALUES, "grid": (EDGE, EDGE)}
    layers: dict[str, nn.Module] = {"3x3 convolution": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)}
    for impl in ("auto", "folded", "reference"):
        layers[f"augmented, {impl}"] = AttentionAugmentedConv2d(CHANNELS, CHANNELS, 3, padding=1, impl=impl, **shape)
    layers["augmented, auto, pool=2"] = AttentionAugmentedConv2d(
        CHANNELS, CHANNELS, 3, padding=1, pool=2, **{**shape, "grid": (EDGE // 2, EDGE // 2)}
    )
    times = measure(layers, torch.randn(BATCH, CHANNELS, EDGE, EDGE), options.repeats)
    rows = [
        {"name": name, "mode": "inference", "unit": "ms", "value": statistics.median(all_), "all": all_}
        for name, all_ in times.items()
    ]
    for row in rows:
        print(f"{row['name']:<28} {row['value']:8.1f} ms  {row['value'] / rows[0]['value']:6.2f} x")
    print(machine())
    if options.out:
        shape = (BATCH, CHANNELS, EDGE, EDGE)
        write_text(
            options.out / "layer.json", json.dumps({"machine": machine(), "shape": shape, "rows": rows}, indent=1)
        )
    return 0


@torch.inference_mode()
def measure(layers: dict[str, nn.Module], x: torch.Tensor, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each repeat, layers taking turns; the first two turns warm up."""
    times: dict[str, list[float]] = {name: [] for name in layers}
    for turn in range(repeats + 2):
        for name, layer in layers.items():
            started = time.perf_counter()
            layer(x)
            if turn > 1:
                times[name].append(1e3 * (time.perf_counter() - started))
    return times


if __name__ == "__main__":
    sys.exit(main())
