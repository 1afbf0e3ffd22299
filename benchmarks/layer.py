"""The whole layer against the plain 3x3 convolution it replaces, inference in float32.

Run: python benchmarks/layer.py [--repeats 15]
"""

import argparse
import statistics
import sys
import time

import torch
from measuring import machine
from torch import nn

from aaconv import AttentionAugmentedConv2d

BATCH, CHANNELS, EDGE, KEYS, VALUES = 8, 128, 28, 160, 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    shape = {"key_channels": KEYS, "value_channels": VALUES, "grid": (EDGE, EDGE)}
    layers: dict[str, nn.Module] = {"3x3 convolution": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)}
    for impl in ("auto", "folded", "reference"):
        layers[f"augmented, {impl}"] = AttentionAugmentedConv2d(CHANNELS, CHANNELS, 3, padding=1, impl=impl, **shape)
    layers["augmented, auto, pool=2"] = AttentionAugmentedConv2d(
        CHANNELS, CHANNELS, 3, padding=1, pool=2, **{**shape, "grid": (EDGE // 2, EDGE // 2)}
    )
    times = measure(layers, torch.randn(BATCH, CHANNELS, EDGE, EDGE), repeats)
    plain = times["3x3 convolution"]
    for name, value in times.items():
        print(f"{name:<28} {value:8.1f} ms  {value / plain:6.2f} x")
    print(machine())
    return 0


@torch.inference_mode()
def measure(layers: dict[str, nn.Module], x: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median milliseconds, layers taking turns; the first two turns warm up."""
    times: dict[str, list[float]] = {name: [] for name in layers}
    for turn in range(repeats + 2):
        for name, layer in layers.items():
            started = time.perf_counter()
            layer(x)
            if turn > 1:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
