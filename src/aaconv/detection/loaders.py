"""Batches of images with boxes.

Letters: b images of a batch, S edge of a training image, h w of an image, k boxes of an image.
"""

from __future__ import annotations

import warnings
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aaconv.data.box_views import BoxImages
from aaconv.data.images import ImageReadError
from aaconv.data.splits import Draw
from aaconv.training.loaders import Share, as_is


class BoxBatch(NamedTuple):
    """uint8 images [b, 3, S, S] of training, or of [3, h, w]; boxes [k, 4] and labels [k] of each; which they are."""

    images: Tensor | list[Tensor]
    targets: list[dict[str, Tensor]]
    indices: list[int]


class EpochBoxes(Dataset[BoxBatch]):
    """Training images of one epoch by lists of indices."""

    def __init__(self, images: BoxImages, draw: Draw):
        self.images, self.draw = images, draw

    def __getitems__(self, indices: list[int]) -> BoxBatch:
        pixels, boxes, labels = zip(*(self.images.read(index, self.draw) for index in indices), strict=True)
        targets = [{"boxes": box, "labels": label} for box, label in zip(boxes, labels, strict=True)]
        return BoxBatch(torch.stack(pixels), targets, indices)

    def __len__(self) -> int:
        return len(self.images)


class WholeImages(Dataset[BoxBatch]):
    """Images in their own size by lists of indices; with ``on_broken`` "skip" without those that cannot be read."""

    def __init__(self, images: BoxImages):
        self.images = images

    def __getitems__(self, indices: list[int]) -> BoxBatch:
        batch = BoxBatch([], [], [])
        for index in indices:
            try:
                pixels, boxes, labels = self.images.read(index, None)
            except (ImageReadError, OSError) as error:
                if self.images.on_broken == "fail":
                    raise
                warnings.warn(f"counts as an image in which nothing was found: {error}", RuntimeWarning, stacklevel=2)
                continue
            batch.images.append(pixels)  # type: ignore[union-attr]  # a list here
            batch.targets.append({"boxes": boxes, "labels": labels})
            batch.indices.append(index)
        return batch

    def __len__(self) -> int:
        return len(self.images)


def whole_loader(images: BoxImages, size: int, share: Share, workers: int) -> DataLoader[BoxBatch]:
    """Every image once over all devices.

    Images share a batch with others of their size alone: a larger neighbour would pad them, and attention sees the
    padding.
    """
    sizes = images.coco.sizes.tolist()
    order = sorted(range(len(images)), key=lambda index: sizes[index])[share.rank :: share.world]
    alike = [list(group) for _, group in groupby(order, key=lambda index: sizes[index])]
    batches = [group[i : i + size] for group in alike for i in range(0, len(group), size)]
    return DataLoader(WholeImages(images), batch_sampler=batches, collate_fn=as_is, num_workers=workers)
