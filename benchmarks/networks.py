"""Whole networks against the plain ones on the same bodies: time of inference and of a training step, peak memory.

Run: python benchmarks/networks.py [--repeats 5] [--pair aa_resnet50,resnet50,8,224 ...] [--memory] [--out FOLDER]
"""

import argparse
import json
import statistics
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from measuring import machine, peak_memory
from torch import Tensor, nn
from torch.nn import functional as F

from aaconv import create_model
from aaconv._files import write_text
from aaconv.models.retinanet import Detector

PAIRS = [  # augmented, plain, batch, edge of the images
    ("aa_resnet50", "resnet50", 8, 224),
    ("aa_resnet50_r100", "resnet50", 8, 224),
    ("aa_wrn28_10", "wrn28_10", 16, 32),
    ("aa_wrn28_10_first", "wrn28_10", 16, 32),
    ("aa_retinanet_resnet50_fpn", "retinanet_resnet50_fpn", 1, 640),  # two in training
]
Shape = tuple[int, ...]  # B, C, H, W of the images


def main() -> int:
    options = _options()
    rows = []
    for augmented, plain, batch, edge in options.pair or PAIRS:
        for mode in MODES:
            shape = (max(batch, LEAST[mode]), 3, edge, edge)
            found = {"ms": measure({name: build(name) for name in (augmented, plain)}, mode, shape, options.repeats)}
            if options.memory:
                found["MiB"] = {name: [peak_memory(run_once, name, mode, shape)] for name in (augmented, plain)}
            for unit, values in found.items():
                case = {"mode": mode, "shape": shape, "unit": unit}
                pair = [{"name": n, **case, "value": statistics.median(v), "all": v} for n, v in values.items()]
                print(say(*pair), flush=True)
                rows += [{**row, "pair": f"{augmented} / {plain}"} for row in pair]
    print(machine())
    if options.out:
        write_text(options.out / "networks.json", json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pair", type=_pair, action="append", metavar="AUGMENTED,PLAIN,BATCH,EDGE")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, each in its own process")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write networks.json there too")
    return parser.parse_args()


def _pair(text: str) -> tuple[str, str, int, int]:
    augmented, plain, batch, edge = text.split(",")
    return augmented, plain, int(batch), int(edge)


@cache
def build(name: str) -> nn.Module:
    """The network, kept, so that peaks of memory are those of the work and not of building it."""
    torch.manual_seed(0)
    return create_model(name)


def infer(model: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        model.eval()(images)


def step(model: nn.Module, images: Tensor) -> None:
    if isinstance(model.train(), Detector):
        edge = images.shape[-1]
        boxes = torch.tensor([[0.1, 0.1, 0.3, 0.4], [0.4, 0.4, 0.9, 0.8]]) * edge
        losses = model(images, [{"boxes": boxes, "labels": torch.tensor([0, 1])}] * len(images))
        loss = losses["classification"] + losses["bbox_regression"]
    else:
        loss = F.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long))
    loss.backward()
    model.zero_grad()


MODES = {"inference": infer, "training": step}
LEAST = {"inference": 1, "training": 2}  # images; batch norm wants two


def measure(models: dict[str, nn.Module], mode: str, shape: Shape, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each repeat, networks taking turns; the first two turns warm up."""
    times: dict[str, list[float]] = {name: [] for name in models}
    images = torch.randn(shape)
    for turn in range(repeats + 2):
        for name, model in models.items():
            started = time.perf_counter()
            MODES[mode](model, images)
            if turn > 1:
                times[name].append(1e3 * (time.perf_counter() - started))
    return times


def run_once(name: str, mode: str, shape: Shape) -> None:
    """One call, for ``peak_memory``."""
    model, images = build(name), torch.randn(max(LEAST[mode], shape[0]), 3, *shape[2:])
    if isinstance(model, Detector) and shape[-1] < model.transform.max_size:
        model.eval().dense_outputs(images)  # a detector would enlarge small images
    else:
        MODES[mode](model, images)


def say(augmented: dict[str, Any], plain: dict[str, Any]) -> str:
    """A line of one measurement of both."""
    shape, ratio = "x".join(map(str, plain["shape"])), augmented["value"] / plain["value"]
    figures = f"{augmented['value']:9.1f} {plain['value']:9.1f} {plain['unit']:>4} {ratio:6.2f} x"
    return f"{augmented['name']:<20} {plain['name']:<10} {shape:<14} {plain['mode']:<10} {figures}"


if __name__ == "__main__":
    sys.exit(main())
