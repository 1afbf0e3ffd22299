"""What training works on: labelled images in memory.

Letters: n images, C channels, E edge in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Labelled images: uint8 [n, C, E, E] and class indices [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A classification data set. ``renew`` makes the training images of an epoch where they are composed anew."""

    train: Split
    val: Split
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()  # files left out, with the reason
    renew: Callable[[int], Split] | None = None

    @property
    def channels(self) -> int:
        """C."""
        return self.train.images.shape[1]

    @property
    def edge(self) -> int:
        """E."""
        return self.train.images.shape[2]
