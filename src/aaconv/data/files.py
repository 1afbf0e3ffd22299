"""Class folders that do not fit into memory: files are read and decoded whenever they are asked for.

Letters: n images, b images asked for, C channels, E edge in pixels.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from aaconv._checks import expect_int, expect_ratio
from aaconv.data.images import ImageReadError, open_image
from aaconv.data.listing import Files, expect_all_classes, list_parts, refuse, survey
from aaconv.data.splits import Draw, ImageData
from aaconv.data.views import View

# Of ImageNet's photographs; measuring them would mean to decode everything first.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageFiles:
    """Labelled image files, in the order of their paths.

    Args:
        root: What ``paths`` are under.
        paths: n files.
        labels: [n].
        view: How they become tensors.
        on_broken: "fail", or "skip" to take the next readable image instead of one that is broken.
    """

    root: Path
    paths: Sequence[Path]
    labels: Tensor
    view: View
    on_broken: str = "fail"
    warned: set[Path] = field(default_factory=set, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int], draw: Draw | None) -> tuple[Tensor, Tensor]:
        """uint8 [b, C, E, E] and labels [b].

        Raises:
            ImageReadError: A file is broken and ``on_broken`` is "fail", or all are.
        """
        read = [self._read(index, draw) for index in indices]
        images, chosen = zip(*read, strict=True)
        return torch.stack(images), self.labels[list(chosen)]

    def fingerprint(self) -> str:
        """Of names, sizes in bytes and labels: the pixels are not read for it."""
        digest = hashlib.blake2b(digest_size=8)
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            digest.update(f"{path.relative_to(self.root).as_posix()} {path.stat().st_size} {label}\n".encode())
        return digest.hexdigest()

    def _read(self, index: int, draw: Draw | None) -> tuple[Tensor, int]:
        """An image, or the next one that can be read; and which it is."""
        for place in range(index, index + len(self)):
            number = place % len(self)
            path = self.paths[number]
            try:
                with open_image(path) as image:
                    return self._view(image, draw, index), number
            except (OSError, SyntaxError, ValueError) as error:
                if self.on_broken == "fail":
                    raise error if isinstance(error, ImageReadError) else ImageReadError(f"{path}: {error}") from error
                self._warn(path, error)
        raise ImageReadError(f"none of the {len(self)} images under {self.root} can be read")

    def _view(self, image: object, draw: Draw | None, index: int) -> Tensor:
        if draw is None:
            return self.view.evaluation(image)  # type: ignore[arg-type]
        return self.view.training(image, draw.generator(index))  # type: ignore[arg-type]

    def _warn(self, path: Path, error: Exception) -> None:
        if path not in self.warned:
            self.warned.add(path)
            warnings.warn(f"left out, the next image takes its place: {path}: {error}", RuntimeWarning, stacklevel=2)


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
    root = Path(folder)
    parts = list_parts(root)
    channels, broken = survey(parts.paths) if check == "headers" else (3, {})
    if on_broken == "fail":
        refuse(broken, len(parts.paths))
    parts = parts.without(broken)
    view = View(size, channels, crop_pct, crop, flip, rand_augment)
    train, val = (labelled(root, files, view, on_broken) for files in parts.divided(held_out, seed))
    for name, part in (("training", train), ("validation", val)):
        expect_all_classes(part.labels, parts.classes, f"readable {name} image in {root}")
    mean, std = (MEAN, STD) if channels == 3 else ((0.5,), (0.25,))
    return ImageData(train, val, parts.classes, channels, (size, size), mean, std, skipped=tuple(broken.values()))


def labelled(root: Path, files: Files, view: View, on_broken: str) -> ImageFiles:
    """The files of each class with its number as label."""
    paths = [path for group in files.values() for path in group]
    labels = [label for label, group in enumerate(files.values()) for _ in group]
    return ImageFiles(root, paths, torch.tensor(labels, dtype=torch.long), view, on_broken)
