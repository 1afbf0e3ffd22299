"""Cluttered digits: one real handwritten digit among pieces of others, the embedded task of an ordinary kind.

The digit and the pieces are scans of scikit-learn's ``load_digits`` (see ``digit_pairs``); none is in both splits. What
a digit is can be told from its own surroundings, so a plain network does well here.

Letters: n canvases, E canvas edge in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aaconv._checks import expect_int
from aaconv.data.digit_pairs import SCAN_EDGE, composed, load_scans, squares
from aaconv.data.splits import ImageData, Split

CLASSES = tuple(str(digit) for digit in range(10))
PIECES, PIECE_EDGE = 8, 4


def cluttered_digits(train_count: int = 12_800, test_count: int = 4_000, *, seed: int = 0, edge: int = 32) -> ImageData:
    """The data set: training canvases composed anew for each epoch, a fixed test set from scans held out."""
    return composed(compose_clutter, CLASSES, train_count, test_count, seed=seed, edge=edge)


def compose_clutter(split: str, count: int, *, seed: int, edge: int = 32) -> Split:
    """``count`` canvases from the scans of one split: uint8 [n, 1, E, E] and the digits [n].

    Args:
        split: "train" or "test".
        count: n.
        seed: The same seed gives the same canvases.
        edge: E, at least a scan's 8 pixels.

    Raises:
        ValueError: The canvas is smaller than a scan.
    """
    expect_int("count", count)
    expect_int("edge", edge, minimum=SCAN_EDGE)
    random = torch.Generator().manual_seed(seed)
    pixels, digits = load_scans(split)
    images = torch.zeros(count, edge, edge, dtype=torch.uint8)
    for _ in range(PIECES):
        source = pixels[torch.randint(len(pixels), (count,), generator=random)]
        start = torch.randint(SCAN_EDGE - PIECE_EDGE + 1, (count, 2), generator=random)
        _lay(images, source[squares(start, PIECE_EDGE)], random)
    scans = torch.randint(len(pixels), (count,), generator=random)
    _lay(images, pixels[scans], random)
    return Split(images[:, None], digits[scans])


def _lay(images: Tensor, patches: Tensor, random: torch.Generator) -> None:
    """Put a patch [n, S, S] at a random place of each image, over what is there."""
    count, size = patches.shape[:2]
    start = torch.randint(images.shape[1] - size + 1, (count, 2), generator=random)
    images[squares(start, size)] = patches
