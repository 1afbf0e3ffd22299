"""What training works on: labelled images, in memory or read when asked for.

Letters: n images, b images asked for, C channels, H W of an image in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """Where an image's random numbers come from: run, epoch and image alone, so that a resumed run draws the same."""

    seed: int
    epoch: int

    def generator(self, index: int) -> torch.Generator:
        """Random numbers for image ``index`` in this epoch."""
        digest = hashlib.blake2b(f"{self.seed} {self.epoch} {index}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Images(Protocol):
    """Labelled images by index."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], draw: Draw | None) -> tuple[Tensor, Tensor]:
        """uint8 [b, C, H, W] and class indices [b]; ``draw`` None asks for the images as evaluation sees them."""

    def fingerprint(self) -> str:
        """A hash that changes when images or labels do."""


@dataclass(frozen=True)
class Split:
    """Labelled images in memory: uint8 [n, C, H, W] and class indices [n]; what is random happens to whole batches."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int], draw: Draw | None = None) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.labels[chosen]

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageData:
    """A classification data set. ``renew`` makes the training images of an epoch where they are composed anew."""

    train: Images
    val: Images
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]  # (H, W)
    mean: tuple[float, ...]  # of each channel of the training images, in 0..1
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()  # files left out, with the reason
    renew: Callable[[int], Images] | None = None

    @classmethod
    def in_memory(cls, train: Split, val: Split, classes: Sequence[str], **others: object) -> ImageData:
        """Of images in memory, which are measured."""
        mean, std = channel_statistics(train.images)
        _, channels, height, width = train.images.shape
        return cls(train, val, tuple(classes), channels, (height, width), mean, std, **others)  # type: ignore[arg-type]

    def fingerprint(self) -> str:
        """A hash of both splits."""
        return f"{self.train.fingerprint()}-{self.val.fingerprint()}"


def channel_statistics(images: Tensor, chunk: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of uint8 [n, C, H, W], in 0..1; deviations are at least 1e-3."""
    count = images.numel() // images.shape[1]
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in images.split(chunk):
        pixels = part.float().div(255)
        total += pixels.sum(dim=(0, 2, 3), dtype=torch.float64)
        squares += pixels.square().sum(dim=(0, 2, 3), dtype=torch.float64)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3)
    return tuple(mean.tolist()), tuple(std.tolist())


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """What stays for training, and the same share of every class, at least one image, to evaluate on.

    Raises:
        ValueError: A class has one image alone.
    """
    random = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(split), dtype=torch.bool)
    for label in split.labels.unique().tolist():
        own = (split.labels == label).nonzero()[:, 0]
        held[own[draw_share(len(own), share, label, random)[1]]] = True
    rest, chosen = (Split(split.images[part], split.labels[part]) for part in (~held, held))
    return rest, chosen


def draw_share(count: int, share: float, name: object, random: torch.Generator) -> tuple[list[int], list[int]]:
    """Which of the ``count`` images of class ``name`` stay, and which are held out; both have at least one."""
    if count < 2:
        raise ValueError(f"class {name!r} needs at least 2 images to hold one out, got {count}")
    order = torch.randperm(count, generator=random).tolist()
    cut = min(max(1, round(share * count)), count - 1)
    return order[cut:], order[:cut]
