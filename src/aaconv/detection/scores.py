"""COCO's twelve figures of found boxes.

Letters: m images, n true boxes, k boxes found in an image, c classes, T overlaps (IoU) from which on a box counts as
found, R recalls at which precision is read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from aaconv._checks import expect_int, expect_shape
from aaconv._files import write_text
from aaconv.data.coco import CocoSet, as_coco

OVERLAPS = np.linspace(0.5, 0.95, 10)  # [T]
RECALLS = np.linspace(0, 1, 101)  # [R]
# In COCO's order, each with its overlap, areas, and how many detections count of an image and class.
FIGURES = {
    "map": ("0.50:0.95", "all", 100),
    "map50": ("0.50", "all", 100),
    "map75": ("0.75", "all", 100),
    "map_small": ("0.50:0.95", "small", 100),
    "map_medium": ("0.50:0.95", "medium", 100),
    "map_large": ("0.50:0.95", "large", 100),
    "mar1": ("0.50:0.95", "all", 1),
    "mar10": ("0.50:0.95", "all", 10),
    "mar100": ("0.50:0.95", "all", 100),
    "mar_small": ("0.50:0.95", "small", 100),
    "mar_medium": ("0.50:0.95", "medium", 100),
    "mar_large": ("0.50:0.95", "large", 100),
}


@dataclass(frozen=True)
class Found:
    """What a detector found in one image.

    ``boxes`` [k, 4] are x1, y1, x2, y2 in pixels of the image as it lies on the disk, ``scores`` [k] how sure of each
    the detector is, ``labels`` [k] indices of classes.
    """

    image: int  # index into the CocoSet
    boxes: Tensor
    scores: Tensor
    labels: Tensor


class ClassScores(TypedDict):
    """Of one class; None where the set holds no box of it. ``truths`` leaves out crowds."""

    map: float | None
    map50: float | None
    truths: int


@dataclass(frozen=True)
class BoxScores:
    """COCO's figures, shares of 1; None where the set holds no box of that size.

    ``boxes`` leaves out crowds, which need not be found. ``precision`` [T, R] is the mean over the classes of which
    there are boxes, ``class_precision`` [R] that of each of them at an overlap of 0.50.
    """

    map: float
    map50: float
    map75: float
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    mar1: float
    mar10: float
    mar100: float
    mar_small: float | None
    mar_medium: float | None
    mar_large: float | None
    images: int
    boxes: int
    detections: int
    classes: dict[str, ClassScores]
    precision: np.ndarray = field(repr=False, compare=False)
    class_precision: dict[str, np.ndarray] = field(repr=False, compare=False)

    def __str__(self) -> str:
        """The twelve lines that COCO's own tools print, with their -1 for None."""
        lines = []
        for name, (overlap, area, detections) in FIGURES.items():
            title = "Average Precision  (AP)" if name.startswith("map") else "Average Recall     (AR)"
            value = getattr(self, name)
            value = -1 if value is None else value
            lines.append(f" {title} @[ IoU={overlap:<9} | area={area:>6} | maxDets={detections:>3} ] = {value:0.3f}")
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """As JSON, a line a field; the curves to five decimals."""
        curves = {name: curve.round(5).tolist() for name, curve in self.class_precision.items()}
        fields = asdict(self) | {"precision": self.precision.round(5).tolist(), "class_precision": curves}
        lines = [f"  {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items()]
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def score(truth: CocoSet, found: Sequence[Found]) -> BoxScores:
    """Hold what was found against the truth, as COCO does.

    Of each image and class the 100 detections of highest score count. An image that ``found`` leaves out counts as one
    in which nothing was found.

    Raises:
        TypeError: A part of ``found`` is not a tensor, or an image no int.
        ValueError: ``truth`` holds nothing that could be found, or ``found`` what cannot be scored: an image or a label
            that ``truth`` lacks, an image twice, wrong shapes, a number that is not finite, a box that ends before it
            begins.
    """
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    if truth.crowd.all():  # as it is where there are no boxes
        images, crowds = len(truth.image_ids), len(truth.crowd)
        raise ValueError(f"truth must hold a box to be found, got {images} images and nothing but {crowds} crowds")
    results = as_results(truth, found)
    # Not by loadRes of faster_coco_eval, which takes twice as long since it gives each box a polygon too.
    for number, result in enumerate(results, start=1):
        result |= {"id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
    sought = as_coco(truth)
    sides = [COCO(side, print_function=_silent) for side in (sought, {**sought, "annotations": results})]
    evaluation = COCOeval_faster(*sides, iouType="bbox", print_function=_silent)
    evaluation.run()
    return _scores(truth, len(results), evaluation.stats, evaluation.eval["precision"][:, :, :, 0, -1])


def as_results(truth: CocoSet, found: Sequence[Found]) -> list[dict[str, Any]]:
    """Detections as COCO's tools read them: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score``.

    Numbers are not rounded: fewer decimals make scores equal and move overlaps across a threshold, and the file would
    not give the figures that ``score`` gives.

    Raises:
        TypeError, ValueError: As ``score`` does for ``found``.
    """
    results: list[dict[str, Any]] = []
    seen: set[int] = set()
    for each in found:
        boxes, scores, labels = _checked(truth, each, seen)
        placed = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        image_id = int(truth.image_ids[each.image])
        results += [
            {"image_id": image_id, "category_id": int(truth.category_ids[label]), "bbox": box, "score": value}
            for label, box, value in zip(labels.tolist(), placed.tolist(), scores.tolist(), strict=True)
        ]
    return results


def _checked(truth: CocoSet, each: Found, seen: set[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [k, 4], scores [k] and labels [k] of an image that is not in ``seen``, which it joins."""
    images, classes = len(truth.image_ids), len(truth.classes)
    if expect_int("image", each.image, 0) >= images:
        raise ValueError(f"image must be below {images}, the number of images, got image={each.image}")
    said = f"of image {each.image} ({truth.names[each.image]})"
    if each.image in seen:
        raise ValueError(f"found must hold an image once, got a second list {said}")
    seen.add(each.image)
    expect_shape(f"boxes {said}", each.boxes, ["k", 4])
    expect_shape(f"scores {said}", each.scores, [len(each.boxes)])
    if not isinstance(each.labels, Tensor):
        raise TypeError(f"labels {said} must be a torch.Tensor, got {type(each.labels).__name__}")
    if each.labels.shape != each.scores.shape or each.labels.dtype not in (torch.int64, torch.int32):
        got = f"{list(each.labels.shape)} of {each.labels.dtype}"
        raise ValueError(f"labels {said} must be {len(each.boxes)} ints, one a box, got {got}")
    boxes, scores = (part.detach().cpu().double().numpy() for part in (each.boxes, each.scores))
    labels = each.labels.cpu().numpy()
    for name, part in (("boxes", boxes), ("scores", scores)):
        if not (finite := np.isfinite(part)).all():
            raise ValueError(f"{name} {said} must be finite, got {part[~finite][0]}")
    if (wrong := (boxes[:, 2:] < boxes[:, :2]).any(axis=1)).any():
        raise ValueError(f"boxes {said} must be x1 <= x2, y1 <= y2, got {boxes[wrong][0].tolist()}")
    if (wrong := (labels < 0) | (labels >= classes)).any():
        raise ValueError(f"labels {said} must be at least 0 and below {classes}, got {labels[wrong][0]}")
    return boxes, scores, labels


def _scores(truth: CocoSet, detections: int, stats: Sequence[float], precision: np.ndarray) -> BoxScores:
    """From COCO's figures and its precision [T, R, c], classes by rising id; -1 where there is none."""
    by_class = precision[:, :, np.argsort(np.argsort(truth.category_ids))]
    there = by_class[0, 0] > -1
    truths = np.bincount(truth.labels[~truth.crowd], minlength=len(truth.classes)).tolist()
    classes: dict[str, ClassScores] = {}
    for index, name in enumerate(truth.classes):
        curve = by_class[:, :, index]
        means = (float(curve.mean()), float(curve[0].mean())) if there[index] else (None, None)
        classes[name] = {"map": means[0], "map50": means[1], "truths": truths[index]}
    pairs = zip(FIGURES, stats, strict=True)
    figures: dict[str, Any] = {name: None if value == -1 else float(value) for name, value in pairs}
    return BoxScores(
        **figures,
        images=len(truth.image_ids),
        boxes=sum(truths),
        detections=detections,
        classes=classes,
        precision=by_class[:, :, there].mean(axis=2),
        class_precision={name: by_class[0, :, index] for index, name in enumerate(truth.classes) if there[index]},
    )


def _silent(*_: object) -> None:
    """In place of ``print``."""
