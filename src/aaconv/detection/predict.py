"""Boxes on anybody's images: drawn, and in COCO's format.

Letters: H W of an image, k boxes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from tqdm import tqdm

from aaconv._checks import expect_ratio
from aaconv._files import write_text, write_whole
from aaconv.data.images import decode, printable, upright
from aaconv.detection.evaluate import make_folder_for, to_device
from aaconv.detection.scores import Found
from aaconv.detection.task import as_floats, found_in
from aaconv.training.checkpoint import ModelCard, load_checkpoint

BOXES = "boxes.json"
# Okabe and Ito's colours, told apart by colour-blind readers; classes take them in turn.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


@dataclass(frozen=True)
class Detection:
    """One box, x1 y1 x2 y2 in pixels of the upright image."""

    label: str
    score: float
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        left, top, right, bottom = self.box
        return f"{self.label} {self.score:.2f} at ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"


def predict_files(
    checkpoint: str | Path, paths: Sequence[str | Path], out: str | Path, *, threshold: float = 0.5
) -> dict[str, list[Detection]]:
    """Draw what a detector finds on image files of any size.

    Args:
        checkpoint: Of ``aaconv detect train``.
        paths: PNG or JPEG files.
        out: Folder that gets a PNG for each image and ``boxes.json``, in COCO's format with scores. Files of one name
            are numbered.
        threshold: Least score of a box.

    Returns:
        The boxes of each image by its path, likeliest first.

    Raises:
        FileNotFoundError: The checkpoint or an image is missing.
        ValueError: The checkpoint or an image cannot be read, or the threshold is no share of 1.
    """
    expect_ratio("threshold", threshold, zero=True)
    model, card = load_checkpoint(checkpoint, detector=True)
    for path in paths:  # before any work
        decode(path, lambda image: image.load())
    folder, names = Path(out), [f"{stem}.png" for stem in distinct_stems(paths)]
    given = {Path(path).resolve() for path in paths}
    clash = [name for name in names if (folder / name).resolve() in given]
    if clash:
        raise ValueError(f"--out must be another folder than that of the images: {folder / clash[0]} would be lost")
    make_folder_for(folder)
    to_device(model)
    found, sizes = [], []
    for index, path in enumerate(tqdm(paths, desc="detecting", disable=None if len(paths) > 1 else True)):
        pixels = decode(path, _pixels)
        found.append(_above(_found(model, index, pixels), threshold))
        sizes.append(tuple(pixels.shape[1:]))
        drawn = draw(pixels, found[-1], card.classes)
        write_whole(folder / names[index], partial(drawn.save, format="PNG"))
    write_text(folder / BOXES, json.dumps(_coco(paths, sizes, found, card), indent=1))
    return {str(path): _named(boxes, card) for path, boxes in zip(paths, found, strict=True)}


def draw(pixels: Tensor, found: Found, classes: Sequence[str]) -> Image.Image:
    """An image, uint8 [3, H, W], with boxes, their classes and scores on it, in sizes that fit the image."""
    edge = max(pixels.shape[1:])
    font = ImageFont.load_default(size=max(10, edge // 45))
    image = to_pil_image(pixels)
    pen = ImageDraw.Draw(image)
    rows = list(zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True))
    for label, score, box in reversed(rows):  # the likeliest on top
        colour = COLOURS[label % len(COLOURS)]
        pen.rectangle(box, outline=colour, width=max(1, edge // 300))
        caption = f"{classes[label]} {score:.2f}"
        *_, width, height = pen.textbbox((0, 0), caption, font=font)
        corner = (min(max(box[0], 0), max(image.width - width, 0)), max(box[1] - height, 0))
        pen.rectangle((*corner, corner[0] + width, corner[1] + height), fill=colour)
        pen.text(corner, caption, fill="black", font=font)
    return image


def _pixels(image: Image.Image) -> Tensor:
    return pil_to_tensor(upright(image, 3))


@torch.inference_mode()
def _found(model: Any, index: int, pixels: Tensor) -> Found:
    return found_in(index, model(as_floats([pixels], next(model.parameters()).device))[0])


def _above(found: Found, threshold: float) -> Found:
    kept = found.scores >= threshold
    return Found(found.image, found.boxes[kept], found.scores[kept], found.labels[kept])


def _named(found: Found, card: ModelCard) -> list[Detection]:
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [Detection(card.classes[label], score, tuple(box)) for label, score, box in rows]


def distinct_stems(paths: Sequence[str | Path]) -> list[str]:
    """The files' names without suffix; where several have one, numbers from the second on."""
    names: list[str] = []
    for path in paths:
        stem = printable(Path(path).stem)
        choices = (f"{stem}{f'_{number}' * (number > 1)}" for number in count(1))
        names.append(next(name for name in choices if name not in names))
    return names


def _coco(paths: Sequence[str | Path], sizes: Sequence[Any], found: Sequence[Found], card: ModelCard) -> dict[str, Any]:
    """Images, boxes with scores, and categories, as COCO's annotation files have them."""
    annotations: list[dict[str, Any]] = []
    for boxes in found:
        rows = zip(boxes.labels.tolist(), boxes.scores.tolist(), boxes.boxes.tolist(), strict=True)
        for label, score, (x1, y1, x2, y2) in rows:
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": boxes.image + 1,
                    "category_id": card.category_ids[label],
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": score,
                }
            )
    return {
        "images": [
            {"id": i, "file_name": printable(path), "height": height, "width": width}
            for i, (path, (height, width)) in enumerate(zip(paths, sizes, strict=True), start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(card.category_ids, card.classes, strict=True)],
    }
