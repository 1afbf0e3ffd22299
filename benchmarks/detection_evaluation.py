"""COCO's figures of a whole set: equal to pycocotools' on a part of its size, then time and peak memory.

Run: python benchmarks/detection_evaluation.py [--repeats 3] [--images 5000] [--detections 100000] [--truths 36000]
     [--checked 500] [--out FOLDER]
"""

import argparse
import contextlib
import importlib.util
import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, peak_memory
from timing import milliseconds

from aaconv._files import write_text
from aaconv.data.coco import CocoSet, as_coco
from aaconv.detection.scores import FIGURES, BoxScores, Found, as_results, score

CLASSES, EDGE, CROWDS, EMPTY = 80, 640, 0.01, 0.01  # crowds among the boxes and images without one, about as in COCO
RIVAL = "pycocotools"
Size = tuple[int, int, int, int]  # images, detections, classes, truths


def main() -> int:
    options = _options()
    size = (options.images, options.detections, CLASSES, options.truths)
    share = options.checked / options.images
    part = (options.checked, int(share * options.detections), CLASSES, int(share * options.truths))
    checked = importlib.util.find_spec(RIVAL) is not None
    if not checked:
        print(f"not checked: {RIVAL} is not installed")
    elif wrong := differing(*made(part)):
        print(f"not timed: {', '.join(wrong)} differ from {RIVAL}'", file=sys.stderr)
        return 1
    rows = [
        seconds(size, options.repeats),
        {"name": "peak memory", "unit": "MiB", "value": peak_memory(run_once, size)},
    ]
    print(f"{size[0]:,} images, {size[3]:,} boxes of {CLASSES} classes, {size[1]:,} detections")
    for row in rows:
        print(f"{row['name']:<12} {row['value']:8.2f} {row['unit']}")
    print(machine())
    if options.out:
        report = {"machine": machine(), "size": size, "checked": options.checked if checked else 0, "rows": rows}
        write_text(options.out / "detection_evaluation.json", json.dumps(report, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100_000)
    parser.add_argument("--truths", type=int, default=36_000)
    parser.add_argument("--checked", type=int, default=500, help=f"images of the set on which {RIVAL} must agree")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write detection_evaluation.json there too")
    return parser.parse_args()


def made(size: Size, seed: int = 0) -> tuple[CocoSet, list[Found]]:
    """Boxes anywhere in images, and detections: two in three are shifted boxes, the others lie anywhere."""
    images, detections, classes, truths = size
    random = np.random.default_rng(seed)
    owners = np.sort(random.integers(int(EMPTY * images), images, truths))
    boxes, labels = _boxes(random, truths), random.integers(0, classes, truths)
    areas = boxes[:, 2] * boxes[:, 3] * random.uniform(0.4, 0.9, truths)  # COCO's are those of the masks
    truth = CocoSet(
        root=Path(),
        names=[f"{index:012}.jpg" for index in range(images)],
        image_ids=7 * np.arange(images) + 3,
        sizes=np.full((images, 2), EDGE),
        classes=tuple(f"class {index}" for index in range(classes)),
        category_ids=tuple(2 * index + 1 for index in range(classes)),
        starts=np.searchsorted(owners, np.arange(images + 1)),
        boxes=boxes,
        labels=labels,
        areas=areas,
        crowd=random.random(truths) < CROWDS,
        dropped={},
    )
    near = random.random(detections) < 2 / 3
    source = random.integers(0, truths, detections)
    moved = boxes[source] + random.normal(0, 0.1, (detections, 4)) * boxes[source][:, [2, 3, 2, 3]]
    placed = np.where(near[:, None], moved, _boxes(random, detections))
    placed[:, 2:] = placed[:, :2] + placed[:, 2:].clip(1)
    kinds = np.where(near, labels[source], random.integers(0, classes, detections))
    where = np.where(near, owners[source], random.integers(0, images, detections))
    scores = random.beta(np.where(near, 4, 1), 3).round(3)  # some are equal, as in half precision
    return truth, _by_image(images, where, placed, scores, kinds)


def _boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """x, y, width, height of each [count, 4]; a third each small, medium and large, roughly."""
    extents = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
    return np.hstack([random.uniform(0, EDGE - extents), extents])


def _by_image(images: int, where: np.ndarray, *parts: np.ndarray) -> list[Found]:
    order = np.argsort(where, kind="stable")
    starts = np.searchsorted(where[order], np.arange(1, images))
    split = [torch.from_numpy(part[order]).tensor_split(torch.from_numpy(starts)) for part in parts]
    return [Found(image, *each) for image, each in enumerate(zip(*split, strict=True))]


def differing(truth: CocoSet, found: list[Found]) -> list[str]:
    """Figures that are not pycocotools'."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        sought = COCO()
        sought.dataset = as_coco(truth)
        sought.createIndex()
        rival = COCOeval(sought, sought.loadRes(as_results(truth, found)), "bbox")
        rival.evaluate()
        rival.accumulate()
        rival.summarize()
    own = score(truth, found)
    pairs = zip(FIGURES, rival.stats.tolist(), strict=True)
    return [name for name, value in pairs if abs(_number(own, name) - value) > 1e-9]


def _number(scores: BoxScores, name: str) -> float:
    value = getattr(scores, name)
    return -1 if value is None else value


def seconds(size: Size, repeats: int) -> dict[str, Any]:
    case = made(size)
    taken = [1e-3 * milliseconds(torch.device("cpu"), score, *case) for _ in range(repeats)]
    return {"name": "time", "unit": "s", "value": statistics.median(taken), "all": taken}


def run_once(size: Size) -> None:
    """One call, for ``peak_memory``, which makes a small one of its own before."""
    score(*made(size))


if __name__ == "__main__":
    sys.exit(main())
