"""Images with the boxes of what is on them, in COCO's format (Lin et al. 2014, arXiv:1405.0312), for whole files.

Boxes are held as the file has them, in arrays that forked workers share; training asks for one image's at a time.

Letters: m images, n boxes, k boxes of an image.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from aaconv._checks import expect_one_of
from aaconv.data.coco_json import ImageTable, read_boxes, read_categories, read_images, read_json
from aaconv.data.files import Names

CROWD, OUTSIDE, SMALL = "of crowds, in training", "outside their image", "smaller than a pixel"
MISSING = "missing from the folder"  # images; the other reasons are of boxes


class Categories(Protocol):
    """What has the classes: a set, or the card of a detector."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def category_ids(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, eq=False)
class CocoSet:
    """Images and boxes.

    Args:
        root: The folder of images.
        names: m paths from ``root`` on.
        image_ids: int64 [m], the file's.
        sizes: int64 [m, 2], height and width as the file has them.
        classes: Names of the categories, in order of their ids.
        category_ids: The file's, which have gaps; ``labels`` count without.
        starts: int64 [m + 1]; image i has the boxes from ``starts[i]`` to ``starts[i + 1]``.
        boxes: float64 [n, 4], x y of the top left corner, width and height, in pixels, as written.
        labels: int64 [n], into ``classes``.
        areas: float64 [n], of the object where the file has it, else of the box.
        crowd: bool [n], whether it is a crowd and no single object.
        dropped: How many boxes, or images, were left out for each reason, and how many more training leaves out.
    """

    root: Path
    names: Sequence[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.names)

    def target(self, index: int) -> tuple[Tensor, Tensor]:
        """What training has to find: x1 y1 x2 y2 in pixels, float32 [k, 4], and labels [k]; k may be 0.

        Boxes end at the edges of the image. Crowds are left out, and what is less than a pixel wide or high.
        """
        part = slice(self.starts[index], self.starts[index + 1])
        corners = clipped(self.boxes[part], self.sizes[index])
        usable = ~self.crowd[part] & (_extents(corners) >= 1)
        return torch.from_numpy(corners[usable]), torch.from_numpy(self.labels[part][usable])

    def fingerprint(self) -> str:
        """A hash of names, sizes in bytes and all arrays: the pixels are not read for it.

        Raises:
            FileNotFoundError: An image is gone.
        """
        digest = hashlib.blake2b(digest_size=8)
        for name in self.names:
            digest.update(os.fsencode(f"{name} {(self.root / name).stat().st_size}\n"))
        digest.update(f"{self.classes} {self.category_ids}".encode(errors="backslashreplace"))
        for array in (self.image_ids, self.sizes, self.starts, self.boxes, self.labels, self.areas, self.crowd):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load_coco(
    annotations: str | Path, images: str | Path, *, on_missing: str = "fail", like: Categories | None = None
) -> CocoSet:
    """A COCO "instances" file and its folder of images. The images are not opened.

    Args:
        annotations: The JSON file.
        images: The folder that its ``file_name`` are in.
        on_missing: "fail", or "skip" to leave images out that are not in the folder.
        like: The training set, or its detector's card, whose categories this one then has too.

    Raises:
        FileNotFoundError: No such file or folder, or images are missing.
        ValueError: The file is no COCO file, has no usable boxes, or has a category that ``like`` has not.
    """
    expect_one_of("on_missing", on_missing, ("fail", "skip"))
    path, root = Path(annotations), Path(images)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is a file, not a folder" if root.exists() else f"no folder of images {root}")
    content = read_json(path)
    categories = read_categories(content, path)
    if like is not None:
        categories = _expected(categories, like, path)
    listed = read_images(content, path)
    present = _present(root, listed.names)
    if not present.all() and (on_missing == "fail" or not present.any()):
        raise FileNotFoundError(_missing_message(listed, present, path, root))
    table, missing = listed.only(present), set(listed.ids[~present].tolist())
    boxes, dropped = read_boxes(content, path, table, list(categories), missing)
    dropped += Counter({MISSING: len(missing)})  # adding forgets what is 0
    owners = np.repeat(table.sizes, np.diff(boxes.starts), axis=0)
    dropped += _left_out(clipped(boxes.boxes, owners), boxes.crowd)
    names, classes, numbers = Names(table.names), tuple(categories.values()), tuple(categories)
    return CocoSet(root, names, table.ids, table.sizes, classes, numbers, **vars(boxes), dropped=dict(dropped))


def clipped(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2, float32 [k, 4], of boxes [k, 4] (x y, width, height) that end at the edges of their images.

    ``sizes`` are (height, width), [2] of one image or [k, 2].
    """
    limits = np.concatenate([sizes[..., ::-1]] * 2, axis=-1)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return corners.clip(0, limits).astype(np.float32)


def describe_dropped(dropped: Mapping[str, int]) -> str:
    """What was left out of a set, as one line, "" if nothing was."""
    parts = []
    for reason, count in dropped.items():
        one, more = ("image", "images") if reason == MISSING else ("box", "boxes")
        parts.append(f"{count:,} {one if count == 1 else more} {reason}")
    return f"left out: {', '.join(parts)}" if parts else ""


def as_coco(data: CocoSet) -> dict[str, Any]:
    """The set as the content of a COCO file, boxes numbered from 1, for evaluation against it."""
    owners = np.repeat(data.image_ids, np.diff(data.starts)).tolist()
    categories = [data.category_ids[label] for label in data.labels.tolist()]
    columns = zip(owners, categories, data.boxes.tolist(), data.areas.tolist(), data.crowd.tolist(), strict=True)
    images = zip(data.image_ids.tolist(), data.names, data.sizes.tolist(), strict=True)
    return {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, name, (height, width) in images
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for i, (image, category, box, area, crowd) in enumerate(columns, start=1)
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(data.category_ids, data.classes, strict=True)
        ],
    }


def _expected(categories: Mapping[int, str], like: Categories, path: Path) -> dict[int, str]:
    """The categories of training, of which the file's must be some."""
    known = dict(zip(like.category_ids, like.classes, strict=True))
    for number, name in categories.items():
        if known.get(number) != name:
            raise ValueError(
                f"{path}: category {name!r} with id {number} is none of training's; give it the id and the name that "
                f"it has there, or leave it out; they are {list(known.items())[:5]}{' ...' * (len(known) > 5)}"
            )
    return known


def _present(root: Path, names: Sequence[str]) -> np.ndarray:
    """Which of the files there are: bool [m]. Each folder is listed once, a look at every file would be slow."""
    folders: dict[str, set[str]] = {}
    found = np.zeros(len(names), bool)
    for i, (folder, _, name) in enumerate(full.rpartition("/") for full in names):
        if folder not in folders:
            folders[folder] = _files_of(root / folder)
        found[i] = name in folders[folder]
    return found


def _files_of(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}


def _missing_message(listed: ImageTable, present: np.ndarray, path: Path, root: Path) -> str:
    first, count = listed.names[int(present.argmin())], int((~present).sum())
    help_ = "leave them out (on_missing='skip')" if present.any() else "name the folder that they are in"
    return f"{count} of the {len(present)} images of {path} are not in {root}, the first is {first!r}; {help_}"


def _left_out(corners: np.ndarray, crowd: np.ndarray) -> Counter[str]:
    """How many boxes ``target`` leaves out, of the clipped [n, 4], for each reason."""
    extents = _extents(corners)
    outside, small = ~crowd & (extents <= 0), ~crowd & (extents > 0) & (extents < 1)
    return Counter({CROWD: int(crowd.sum()), OUTSIDE: int(outside.sum()), SMALL: int(small.sum())})


def _extents(corners: np.ndarray) -> np.ndarray:
    """The smaller one of width and height: [k]."""
    return (corners[:, 2:] - corners[:, :2]).min(axis=1)
