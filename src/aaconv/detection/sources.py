"""From a recipe's data to images with boxes, and synthetic ones of the same shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aaconv.data.box_views import BoxImages, BoxView
from aaconv.data.coco import MISSING, CocoSet, describe_dropped, load_coco
from aaconv.data.scenes import digit_scenes
from aaconv.detection.config import BoxDataConfig, DetectionRecipe


@dataclass(frozen=True)
class BoxData:
    """Images to train and to evaluate on."""

    train: BoxImages
    val: BoxImages

    @property
    def categories(self) -> CocoSet:
        """What has names and ids of the classes."""
        return self.train.coco

    @property
    def skipped(self) -> int:
        """Images left out because they are missing."""
        return sum(part.coco.dropped.get(MISSING, 0) for part in (self.train, self.val))

    def notes(self) -> str:
        """What was left out of both parts, "" if nothing was."""
        found = {"training": self.train.coco.dropped, "evaluation": self.val.coco.dropped}
        return "; ".join(f"{name}: {describe_dropped(dropped)}" for name, dropped in found.items() if dropped)

    def fingerprint(self) -> str:
        """A hash of both."""
        return f"{self.train.fingerprint()}-{self.val.fingerprint()}"


def load_boxes(recipe: DetectionRecipe) -> BoxData:
    """The images of ``recipe.data``; the embedded ones are made where they are not there yet.

    Raises:
        FileNotFoundError: No such folder, annotations or image.
        ValueError: Annotations that cannot be used; the message says why.
    """
    data, augment = recipe.data, recipe.augment
    if data.name == "scenes":
        root = digit_scenes(data.path)
        parts = [(f"annotations/instances_{part}.json", part) for part in ("train", "test")]
    else:
        if data.path is None:
            raise ValueError("data.path must say where the folder in COCO's format lies, got none; give --data.path")
        root = Path(data.path)
        parts = [(data.train_boxes, data.train_images), (data.val_boxes, data.val_images)]
    (train_boxes, train_images), (val_boxes, val_images) = parts
    train = load_coco(root / train_boxes, root / train_images, on_missing=data.on_broken)
    val = load_coco(root / val_boxes, root / val_images, on_missing=data.on_broken, like=train)
    if val.crowd.all():
        raise ValueError(f"{root / val_boxes} must have a box that is no crowd to evaluate on, has none")
    view = BoxView(data.size, (augment.smallest, augment.largest), augment.flip)
    return BoxData(BoxImages(train, view, data.on_broken), BoxImages(val, view, data.on_broken))


def synthetic_boxes(data: BoxDataConfig, count: int, folder: Path) -> BoxData:
    """``count`` files of noise with a box each, and as many classes as COCO has, written into ``folder``."""
    random, edge = np.random.default_rng(0), data.size
    for i in range(count):
        noise = random.integers(0, 256, (edge, edge, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png", compress_level=0)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": edge, "height": edge} for i in range(count)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i % 80, "bbox": [edge // 4, edge // 4, edge // 2, edge // 2]}
            for i in range(count)
        ],
        "categories": [{"id": i, "name": str(i)} for i in range(10 if data.name == "scenes" else 80)],
    }
    (folder / "boxes.json").write_text(json.dumps(content), encoding="utf-8")
    images = BoxImages(load_coco(folder / "boxes.json", folder), BoxView(edge))
    return BoxData(images, images)
