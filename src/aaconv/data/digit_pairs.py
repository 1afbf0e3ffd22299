"""The embedded default data: two real handwritten digits far apart on one canvas, "same digit or not".

The digits are the 1,797 scans of scikit-learn's ``load_digits`` (8x8 pixels, UCI "Optical Recognition of Handwritten
Digits"), which ship inside that package. The canvas is composed by us. No scan is in both splits.

Letters: n canvases, E canvas edge in pixels, H W of any image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from aaconv._checks import expect_int, expect_one_of
from aaconv.data.splits import ImageData, Split

CLASSES = ("different", "same")
SCAN_EDGE = 8  # pixels of a scan
TEST_SHARE = 0.25
SPLIT_SEED = 0  # the split is part of the data, not of a run


@dataclass(frozen=True)
class DigitPairs(Split):
    """Composed canvases, uint8 [n, 1, E, E], labels [n] into ``CLASSES``, and what they were composed of."""

    scans: Tensor  # [n, 2], which scans of the split stand on the canvas
    corners: Tensor  # [n, 2, 2], (row, column) of each scan's top left pixel


def digit_pairs(train_count: int = 12_800, test_count: int = 4_000, *, seed: int = 0, edge: int = 32) -> ImageData:
    """The data set: training canvases composed anew for each epoch, a fixed test set from scans held out."""
    return composed(compose_pairs, CLASSES, train_count, test_count, seed=seed, edge=edge)


def composed(
    compose: Callable[..., Split], classes: Sequence[str], train_count: int, test_count: int, *, seed: int, edge: int
) -> ImageData:
    """The data set that ``compose(split, count, seed=, edge=)`` makes, its training part anew for each epoch."""

    def renew(epoch: int) -> Split:
        return compose("train", train_count, seed=1 + epoch + 1_000_003 * seed, edge=edge)

    test = compose("test", test_count, seed=0, edge=edge)
    return ImageData.in_memory(renew(0), test, classes, renew=renew)


@cache
def load_scans(split: str) -> tuple[Tensor, Tensor]:
    """Scans of the "train" three quarters or the "test" quarter, uint8 [m, 8, 8], and their digits [m]."""
    from sklearn.datasets import load_digits

    expect_one_of("split", split, ("train", "test"))
    source = load_digits()
    images = (torch.from_numpy(source.images) * (255 / 16)).round().to(torch.uint8)  # 17 grey levels
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    held_out = round(TEST_SHARE * len(images))
    chosen = order[:held_out] if split == "test" else order[held_out:]
    return images[chosen], torch.from_numpy(source.target)[chosen].long()


def compose_pairs(split: str, count: int, *, seed: int, edge: int = 32, gap: int = 1) -> DigitPairs:
    """``count`` canvases, every other one "same", from the scans of one split.

    Args:
        split: "train" or "test".
        count: n.
        seed: The same seed gives the same canvases.
        edge: E.
        gap: Free pixels at least between the two scans, vertically or horizontally.

    Raises:
        ValueError: The canvas is too small for two scans ``gap`` apart.
    """
    expect_int("count", count)
    expect_int("gap", gap, minimum=0)
    if edge < (least := 2 * SCAN_EDGE + gap):
        raise ValueError(f"edge must be at least {least} for {gap=}, got {edge=}")
    random = torch.Generator().manual_seed(seed)
    pixels, digits = load_scans(split)
    labels = torch.arange(count) % 2
    scans = _draw_scans(digits, labels, random)
    corners = _draw_corners(count, edge, gap, random)
    images = torch.zeros(count, edge, edge, dtype=torch.uint8)
    for place in range(2):
        images[squares(corners[:, place], SCAN_EDGE)] = pixels[scans[:, place]]
    return DigitPairs(images[:, None], labels, scans, corners)


def squares(corners: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index into [n, H, W] of a square of ``size`` in each, its top left at (row, column) ``corners`` [n, 2]."""
    cells = torch.arange(size)
    rows, columns = corners[:, 0, None, None] + cells[:, None], corners[:, 1, None, None] + cells
    return torch.arange(len(corners))[:, None, None], rows, columns


def _draw_scans(digits: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
    """Two different scans a canvas, of one digit where the label is 1, of two digits where it is 0: [n, 2]."""
    same = digits[:, None] == digits[None, :]
    allowed = torch.stack([~same, same & ~torch.eye(len(digits), dtype=torch.bool)])
    first = torch.randint(len(digits), labels.shape, generator=random)
    second = torch.multinomial(allowed[labels, first].float(), 1, generator=random)[:, 0]
    return torch.stack([first, second], dim=1)


def _draw_corners(count: int, edge: int, gap: int, random: torch.Generator) -> Tensor:
    """Top left pixels of both scans, uniform over all placements ``gap`` apart: [n, 2, 2]."""
    corners = torch.empty(0, 2, 2, dtype=torch.long)
    while len(corners) < count:  # rejection keeps the placements uniform
        drawn = torch.randint(edge - SCAN_EDGE + 1, (count, 2, 2), generator=random)
        apart = (drawn[:, 0] - drawn[:, 1]).abs().amax(dim=1) >= SCAN_EDGE + gap
        corners = torch.cat([corners, drawn[apart]])
    return corners[:count]
