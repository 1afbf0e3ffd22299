"""COCO "instances" files: what is in them, entry by entry, checked and packed into arrays.

Letters: m images, n boxes.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from aaconv._checks import expect_file

OF_MISSING_IMAGES, UNKNOWN_IMAGE, UNKNOWN_CATEGORY = "of missing images", "of unknown images", "of unknown categories"
NO_NUMBERS, NO_EXTENT = "not four finite numbers", "of no width or height"
LARGEST = float(np.finfo(np.float32).max)  # training has float32


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The images of a file: m paths from the folder of images on, ids [m], and (height, width) [m, 2]."""

    names: list[str]
    ids: np.ndarray
    sizes: np.ndarray

    def only(self, kept: np.ndarray) -> ImageTable:
        """Those where ``kept`` [m] is true."""
        return ImageTable([self.names[i] for i in kept.nonzero()[0]], self.ids[kept], self.sizes[kept])


@dataclass(frozen=True, eq=False)
class BoxTable:
    """The boxes of a file, image by image.

    Args:
        starts: [m + 1]; image i has the boxes from ``starts[i]`` to ``starts[i + 1]``.
        boxes: float64 [n, 4], x y of the top left corner, width and height, in pixels.
        labels: [n].
        areas: [n], of the object, in pixels.
        crowd: bool [n], whether it is a crowd and no single object.
    """

    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file less the outlines of its objects, which are most of it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no JSON object in UTF-8 of moderate depth.
    """
    if not path.exists():
        raise FileNotFoundError(f"no annotation file {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the annotation file in it")
    expect_file("annotations", path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=_without_outline)
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply for a COCO file") from error
    except ValueError as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise ValueError(f"{path}: not JSON in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object with images, annotations and categories, got {_shown(content)}")
    return content


def read_categories(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Names of the categories by id, in order of the ids.

    Raises:
        ValueError: There are none, an id is no whole number, a name is no text, or either comes twice.
    """
    categories: dict[int, str] = {}
    for where, entry in _entries(content, "categories", path):
        number, name = _whole_number(entry, "id", where), entry.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}.name must be a text, got {_shown(name)}")
        if number in categories:
            raise ValueError(f"{where}.id {number} is the id of {categories[number]!r} too; ids must be unique")
        if name in categories.values():
            raise ValueError(f"{where}.name {name!r} comes twice; names must be unique")
        categories[number] = name
    return dict(sorted(categories.items()))


def read_images(content: Mapping[str, Any], path: Path) -> ImageTable:
    """The images, in the file's order.

    Raises:
        ValueError: There are none, an id is no whole number or comes twice, a size is not positive, or a name leads out
            of the folder of images.
    """
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    ids: dict[int, None] = {}
    for where, entry in _entries(content, "images", path):
        number = _whole_number(entry, "id", where)
        if number in ids:
            raise ValueError(f"{where}.id {number} comes twice; ids must be unique")
        ids[number] = None
        sizes.append((_whole_number(entry, "height", where, 1), _whole_number(entry, "width", where, 1)))
        names.append(_inside(entry.get("file_name"), where))
    return ImageTable(names, np.fromiter(ids, np.int64), np.array(sizes, np.int64))


def read_boxes(
    content: Mapping[str, Any], path: Path, images: ImageTable, categories: Sequence[int], missing: Collection[int]
) -> tuple[BoxTable, Counter[str]]:
    """The boxes that can be used, and how many cannot for each reason.

    Args:
        content: Of the file.
        path: Names the file in errors.
        images: Those to take boxes of.
        categories: Their ids; labels count them.
        missing: Ids of images that are left out.

    Raises:
        ValueError: The file has no boxes, or none that can be used.
    """
    entries, dropped = content.get("annotations"), Counter[str]()
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} has no boxes: its annotations must be a list, got {_shown(entries)}")
    numbers = {number: i for i, number in enumerate(images.ids.tolist())}
    labels = {number: label for label, number in enumerate(categories)}
    rows = []
    for entry in entries:
        reason = _fault(entry, numbers, labels, missing)
        if reason:
            dropped[reason] += 1
            continue
        box, area = entry["bbox"], entry.get("area")
        area = area if _is_number(area) and area >= 0 else box[2] * box[3]
        crowd = bool(entry.get("iscrowd", 0))
        rows.append((numbers[entry["image_id"]], *box, labels[entry["category_id"]], area, crowd))
    if not rows:
        raise ValueError(f"{path} has no boxes that can be used, of {len(entries)}: {dict(dropped)}")
    return _packed(rows, len(images.names)), dropped


def _packed(rows: list[tuple[float, ...]], count: int) -> BoxTable:
    """Rows of image, x, y, width, height, label, area and crowd, sorted into the ``count`` images."""
    table = np.array(rows, np.float64)
    owners = table[:, 0].astype(np.int64)
    table = table[np.argsort(owners, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=count))])
    return BoxTable(
        starts, table[:, 1:5].copy(), table[:, 5].astype(np.int64), table[:, 6].copy(), table[:, 7].astype(bool)
    )


def _fault(entry: Any, images: Collection[int], labels: Collection[int], missing: Collection[int]) -> str | None:
    """Why an annotation cannot be used, None where it can."""
    entry = entry if isinstance(entry, dict) else {}
    box, image = entry.get("bbox"), entry.get("image_id")
    if not _is_number(image) or image not in images:
        return OF_MISSING_IMAGES if _is_number(image) and image in missing else UNKNOWN_IMAGE
    if not _is_number(entry.get("category_id")) or entry["category_id"] not in labels:
        return UNKNOWN_CATEGORY
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        return NO_NUMBERS
    return None if box[2] > 0 and box[3] > 0 else NO_EXTENT


def _is_number(value: Any) -> bool:
    """Whether it is a number that float32 holds, which NaN and infinities are not."""
    return isinstance(value, (int, float)) and -LARGEST < value < LARGEST


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # while the file is read: together they need gigabytes
    return entry


def _entries(content: Mapping[str, Any], name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list that must not be empty, each with the words that an error names it by."""
    entries = content.get(name)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} has no {name}: they must be a list of objects, got {_shown(entries)}")
    for i, entry in enumerate(entries):
        where = f"{path}: {name}[{i}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} must be an object, got {_shown(entry)}")
        yield where, entry


def _whole_number(entry: Mapping[str, Any], key: str, where: str, least: int = -(2**63)) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        rule = "a positive whole number" if least == 1 else "a whole number"
        raise ValueError(f"{where}.{key} must be {rule} of at most 64 bits, got {_shown(value)}")
    return value


def _inside(name: Any, where: str) -> str:
    """A path that stays in the folder it starts from, in its shortest form, whatever slashes it is written with."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}.file_name must be a text, got {_shown(name)}")
    shortest = posixpath.normpath(name.replace("\\", "/"))
    if PureWindowsPath(name).anchor or shortest.split("/")[0] in ("", "..", "."):
        raise ValueError(f"{where}.file_name must name a file inside the folder of images, got {_shown(name)}")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}.file_name is no text that can name a file: {_shown(name)}") from error
    return shortest


def _shown(value: Any, width: int = 80) -> str:
    """A value in messages: one line, not long."""
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "an int above 10**20"
    return text if len(text) <= width else text[: width - 3] + "..."
