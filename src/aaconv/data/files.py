"""Class folders that do not fit into memory: files are read and decoded whenever they are asked for.

Letters: n images, b images asked for, C channels, E edge in pixels.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from aaconv._checks import expect_int, expect_one_of, expect_ratio
from aaconv.data.images import ImageReadError, decode, printable
from aaconv.data.listing import Files, Parts, expect_all_classes, list_parts, refuse, survey
from aaconv.data.splits import Draw, ImageData
from aaconv.data.views import View

T = TypeVar("T")
# Of ImageNet's photographs; measuring them would mean to decode everything first.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Names(Sequence[str]):
    """File names as one string of bytes: forked workers share it, where each would copy a million Python objects."""

    def __init__(self, names: Sequence[str]):
        encoded = [os.fsencode(name) for name in names]
        self.content, self.ends = b"".join(encoded), np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        return os.fsdecode(self.content[self.ends[index] : self.ends[index + 1]])


class LeftOut:
    """Lets the next image stand in for one that cannot be read, and warns of each once."""

    def __init__(self) -> None:
        self.warned: set[str] = set()

    def first_readable(self, index: int, names: Sequence[str], read: Callable[[int], T]) -> T:
        """What ``read`` gives for the first number from ``index`` on, around the end of ``names``.

        Raises:
            ImageReadError: None can be read.
        """
        for place in range(index, index + len(names)):
            number = place % len(names)
            try:
                return read(number)
            except (ImageReadError, OSError) as error:
                if names[number] not in self.warned:
                    self.warned.add(names[number])
                    text = f"left out, the next image takes its place: {error}"
                    warnings.warn(text, RuntimeWarning, stacklevel=2)
        raise ImageReadError(f"none of the {len(names)} images can be read, the first is {printable(names[0])}")


@dataclass(frozen=True)
class ImageFiles:
    """Labelled image files.

    Args:
        root: What ``names`` are under.
        names: n paths from ``root`` on.
        labels: [n].
        view: How they become tensors.
        on_broken: "fail", or "skip" to take the next readable image instead of one that is broken.
    """

    root: Path
    names: Sequence[str]
    labels: Tensor
    view: View
    on_broken: str = "fail"
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int], draw: Draw | None) -> tuple[Tensor, Tensor]:
        """uint8 [b, C, E, E] and labels [b].

        Raises:
            ImageReadError: A file is broken and ``on_broken`` is "fail", or all are.
            FileNotFoundError: A file is gone and ``on_broken`` is "fail".
        """
        read = [self._read(index, draw) for index in indices]
        images, chosen = zip(*read, strict=True)
        return torch.stack(images), self.labels[list(chosen)]

    def fingerprint(self) -> str:
        """Of names, sizes in bytes and labels: the pixels are not read for it."""
        digest = hashlib.blake2b(digest_size=8)
        for name, label in zip(self.names, self.labels.tolist(), strict=True):
            line = f"{Path(name).as_posix()} {_size(self.root / name)} {label}\n"
            digest.update(os.fsencode(line))  # names need not be UTF-8
        return digest.hexdigest()

    def _read(self, index: int, draw: Draw | None) -> tuple[Tensor, int]:
        """An image, or the next one that can be read; and which it is."""

        def read(number: int) -> tuple[Tensor, int]:
            view = partial(self.view, generator=None if draw is None else draw.generator(index))
            return decode(self.root / self.names[number], view), number

        return read(index) if self.on_broken == "fail" else self.left_out.first_readable(index, self.names, read)


@dataclass(frozen=True)
class Readable:
    """Files to evaluate on: those that cannot be read are left out, and none stands in for another as in training."""

    files: ImageFiles

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int], draw: Draw | None) -> tuple[Tensor, Tensor]:
        """uint8 [up to b, C, E, E] and labels."""
        shape = (0, self.files.view.channels, self.files.view.size, self.files.view.size)
        images, labels = [torch.empty(shape, dtype=torch.uint8)], [self.files.labels[:0]]
        for index in indices:
            try:
                image, label = self.files.read([index], draw)
            except (ImageReadError, OSError) as error:
                warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=2)
                continue
            images.append(image)
            labels.append(label)
        return torch.cat(images), torch.cat(labels)

    def fingerprint(self) -> str:
        return self.files.fingerprint()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # gone; what that means, reading says
        return None


def load_files(
    folder: str | Path,
    *,
    size: int,
    crop_pct: float = 0.875,
    held_out: float = 0.2,
    seed: int = 0,
    on_broken: str = "fail",
    check: str = "headers",
    crop: str = "inception",
    flip: bool = True,
    rand_augment: int = 0,
) -> ImageData:
    """A folder of classes, or of ``train`` and ``val`` with a folder a class each, PNG and JPEG of any size.

    Args:
        folder: Where they lie.
        size: E.
        held_out: Share of each class to evaluate on where there is no ``val`` folder.
        seed: Of the draw of those.
        on_broken: "fail", or "skip" and count.
        check: "headers" opens every file first; "none" leaves it to the epoch that meets it, and takes all as colour.
        crop_pct, crop, flip, rand_augment: See ``View``.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: Fewer than two classes, a class without images, or unreadable images.
    """
    expect_int("data.size", size)
    expect_ratio("data.held_out", held_out)
    expect_one_of("data.on_broken", on_broken, ("fail", "skip"))
    expect_one_of("data.check", check, ("headers", "none"))
    root = Path(folder)
    parts, channels, broken = _readable(root, check, on_broken)
    view = View(size, channels, crop_pct, crop, flip, rand_augment)
    train, val = (labelled(root, files, view, on_broken) for files in parts.divided(held_out, seed))
    expect_all_classes(train.labels, val.labels, parts.classes, root)
    mean, std = (MEAN, STD) if channels == 3 else ((0.5,), (0.25,))
    seen = Readable(replace(val, on_broken="fail")) if on_broken == "skip" else val
    return ImageData(train, seen, parts.classes, channels, (size, size), mean, std, skipped=broken)


def _readable(root: Path, check: str, on_broken: str) -> tuple[Parts, int, tuple[str, ...]]:
    """The files, their channels, and why some that were left out cannot be opened."""
    parts = list_parts(root)
    channels, broken = survey(parts.paths) if check == "headers" else (3, {})
    if on_broken == "fail":
        refuse(broken, len(parts.paths))
    return parts.without(broken), channels, tuple(broken.values())


def labelled(root: Path, files: Files, view: View, on_broken: str) -> ImageFiles:
    """The files of each class with its number as label."""
    names = [str(path.relative_to(root)) for group in files.values() for path in group]
    labels = [label for label, group in enumerate(files.values()) for _ in group]
    return ImageFiles(root, Names(names), torch.tensor(labels, dtype=torch.long), view, on_broken)
