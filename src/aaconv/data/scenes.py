"""Digit scenes, the embedded detection data: real handwritten digits on parts of real photographs, in COCO's format.

The digits are scikit-learn's scans (see ``digit_pairs``), the photographs those that ship inside scikit-image and
scikit-learn. Putting one on the other is ours, so that boxes are exact. No scan and no photograph is in both splits.

Letters: E edge of an image in pixels, h w of what is painted, k digits of an image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from aaconv._checks import expect_int, expect_one_of
from aaconv.data.caches import cache_folder, make_folder
from aaconv.data.digit_pairs import load_scans

VERSION = 1  # of what the same arguments make
# Functions of skimage.data that need no download, file names of sklearn.datasets; none shows a digit.
PHOTOGRAPHS = {
    "train": (
        "astronaut", "brick", "coffee", "flower.jpg", "grass", "hubble_deep_field", "moon", "retina", "rocket",
        "stereo_motorcycle",
    ),
    "test": ("camera", "chelsea", "china.jpg", "gravel", "immunohistochemistry"),
}  # fmt: skip
CATEGORY_IDS = tuple(2 * digit + 1 for digit in range(10))  # with gaps, as COCO's have
HEIGHTS = (16, 56)  # of a digit, in pixels
LEAST_EDGE = 72  # into which the largest one fits
MOST = 8  # digits of an image
EMPTY = 0.03  # share of images without any
PAINTED = 0.25  # a pixel with at least this much ink is in the box
CONTRAST = 70  # of 255, between the ink and the mean of what is under it, in brightness
OVERLAP = 0.1  # most that the boxes of two digits share of the smaller one
TRIES = 20  # to find a place for a digit
BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # of red, green and blue
QUALITY = 95  # of JPEG; as PNG the set would be more than twice as large and take longer to make


@dataclass(frozen=True)
class Scene:
    """One image, what stands on it, and where it is from.

    Args:
        pixels: uint8 [E, E, 3].
        digits: [k].
        boxes: int [k, 4], x y of the top left corner, width and height, of the pixels with ``PAINTED`` ink or more.
        scans: [k], which of the split's.
        photograph: Its name.
    """

    pixels: np.ndarray
    digits: np.ndarray
    boxes: np.ndarray
    scans: np.ndarray
    photograph: str


def digit_scenes(
    folder: str | Path | None = None,
    *,
    train_count: int = 3000,
    test_count: int = 500,
    edge: int = 128,
    seed: int = 0,
) -> Path:
    """The set's folder, made where it is not there yet.

    It holds ``train/``, ``test/``, ``annotations/instances_train.json`` and ``annotations/instances_test.json``.

    Args:
        folder: What to make it in, None for the cache folder; its own name in there says version and arguments.
        train_count, test_count: Images.
        edge: E, at least 72.
        seed: Another one makes other images of both splits, from the same scans and photographs.

    Raises:
        OSError: The folder cannot be written.
    """
    for name, count in (("train_count", train_count), ("test_count", test_count)):
        expect_int(name, count)
    expect_int("edge", edge, minimum=LEAST_EDGE)
    expect_int("seed", seed, minimum=0)
    root = cache_folder() if folder is None else Path(folder)
    name = f"digit_scenes-v{VERSION}-{train_count}-{test_count}-{edge}-{seed}"
    counts = {"train": train_count, "test": test_count}
    return make_folder(root / name, lambda beside: _write(beside, counts, edge, seed))


def scene(split: str, index: int, *, edge: int = 128, seed: int = 0) -> Scene:
    """Image ``index`` of a split, "train" or "test"."""
    names = PHOTOGRAPHS[expect_one_of("split", split, PHOTOGRAPHS)]
    random = np.random.default_rng((seed, split == "test", index))
    photograph = names[random.integers(len(names))]
    canvas = _background(open_photograph(photograph), edge, random)
    scans, digits = load_scans(split)
    count = 0 if random.random() < EMPTY else int(random.integers(1, MOST + 1))
    chosen, boxes = [], np.zeros((0, 4), np.int64)
    for number in random.integers(len(scans), size=count):
        ink = _ink(scans[number].numpy(), random)
        place = _place(ink, boxes, edge, random)
        if place is not None:
            corner, box = place
            _paint(canvas, ink, corner, random)
            boxes = np.concatenate([boxes, box[None]])
            chosen.append(int(number))
    pixels = canvas.round().clip(0, 255).astype(np.uint8)
    return Scene(pixels, digits.numpy()[chosen], boxes, np.array(chosen, np.int64), photograph)


def tight_box(inside: np.ndarray) -> np.ndarray:
    """x y of the top left corner, width and height, of the true pixels of [h, w]."""
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1])


@cache
def open_photograph(name: str) -> Image.Image:
    """In colours, all of its pixels."""
    if name.endswith(".jpg"):
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(name))
    from skimage import data

    pixels = getattr(data, name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels).convert("RGB")  # a stereo pair's left


def _background(photograph: Image.Image, edge: int, random: np.random.Generator) -> np.ndarray:
    """A square part of random size, at E x E: float64 [E, E, 3]."""
    most = min(*photograph.size, 4 * edge)
    side = np.exp(random.uniform(np.log(min(edge, most)), np.log(most)))
    left, top = (random.uniform(0, length - side) for length in photograph.size)
    part = photograph.resize((edge, edge), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    return np.asarray(part, np.float64)


def _ink(scan: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How much ink a digit of random height, or width if it is wide, has at each pixel, in 0..1: [h, w]."""
    height = np.exp(random.uniform(*np.log(HEIGHTS)))
    rimmed = np.pad(_cut(scan, tight_box(scan > 0)), 1)
    size = [round(length * height / (max(rimmed.shape) - 2)) for length in rimmed.shape[::-1]]
    smooth = np.asarray(Image.fromarray(rimmed).resize(size, Image.Resampling.BICUBIC), np.float64)
    sharp = (smooth / smooth.max() - 0.3) / 0.35  # strokes of so few pixels would have no edge
    return _cut(sharp, tight_box(sharp > 0)).clip(0, 1) * random.uniform(0.85, 1)


def _cut(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    x, y, width, height = box
    return pixels[y : y + height, x : x + width]


def _place(
    ink: np.ndarray, boxes: np.ndarray, edge: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """(x, y) of a digit's top left pixel, inside the image and off other digits, and its box; None if none is found."""
    own = tight_box(ink >= PAINTED)
    corners = random.integers(0, edge - np.array(ink.shape[::-1]) + 1, size=(TRIES, 2))
    for corner in corners:
        box = own.copy()
        box[:2] += corner
        low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        if (shared <= OVERLAP * np.minimum(box[2:].prod(), boxes[:, 2:].prod(axis=1))).all():
            return corner, box
    return None


def _paint(canvas: np.ndarray, ink: np.ndarray, corner: np.ndarray, random: np.random.Generator) -> None:
    """Lay ink of a random colour, lighter or darker than what is under it, on [E, E, 3]."""
    under = _cut(canvas, np.array([*corner, *ink.shape[::-1]]))
    ground = float((under @ BRIGHTNESS)[ink >= PAINTED].mean())
    colour = random.uniform(0, 255, 3)
    bright = float(colour @ BRIGHTNESS)
    if ground < 127.5:
        share = np.clip((random.uniform(ground + CONTRAST, 255) - bright) / (255 - bright), 0, 1)
        colour = colour + share * (255 - colour)
    else:
        colour = colour * min(random.uniform(0, ground - CONTRAST) / bright, 1)
    under += ink[..., None] * (colour - under)


def _write(folder: Path, counts: dict[str, int], edge: int, seed: int) -> None:
    """Both splits' images and annotations."""
    progress = tqdm(total=sum(counts.values()), desc="making digit scenes", unit=" images", disable=None)
    (folder / "annotations").mkdir()
    with progress:
        for split, count in counts.items():
            (folder / split).mkdir()
            images: list[dict[str, object]] = []
            annotations: list[dict[str, object]] = []
            for index in range(count):
                made = scene(split, index, edge=edge, seed=seed)
                name = f"{index:06d}.jpg"
                Image.fromarray(made.pixels).save(folder / split / name, quality=QUALITY, subsampling=0)
                images.append({"id": index + 1, "file_name": name, "width": edge, "height": edge})
                annotations += [{"id": len(annotations) + i, **entry} for i, entry in _entries(made, index + 1)]
                progress.update()
            content = {**_about(split), "images": images, "annotations": annotations}
            path = folder / "annotations" / f"instances_{split}.json"
            path.write_text(json.dumps(content), encoding="utf-8")


def _entries(made: Scene, image: int) -> Iterator[tuple[int, dict[str, object]]]:
    """The annotations of one image, numbered from 1."""
    for i, (digit, box) in enumerate(zip(made.digits.tolist(), made.boxes.tolist(), strict=True), start=1):
        area = box[2] * box[3]
        yield i, {"image_id": image, "category_id": CATEGORY_IDS[digit], "bbox": box, "area": area, "iscrowd": 0}


def _about(split: str) -> dict[str, object]:
    """What the file says of the set."""
    description = (
        "Digit scenes, a synthetic composition of real images: handwritten digits from scikit-learn's load_digits on "
        f"parts of photographs that ship with scikit-image and scikit-learn ({', '.join(PHOTOGRAPHS[split])})."
    )
    categories = [{"id": number, "name": str(digit)} for digit, number in enumerate(CATEGORY_IDS)]
    return {"info": {"description": description, "version": str(VERSION)}, "categories": categories}
