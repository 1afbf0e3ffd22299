"""Which image files a folder of classes holds, and which of them cannot be opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aaconv.data.images import SUFFIXES, ImageReadError, is_grey
from aaconv.data.splits import draw_share

SHOWN = 3  # broken files that an error names
Files = dict[str, list[Path]]  # of each class


@dataclass(frozen=True)
class Parts:
    """The files of FOLDER/<class>/, or of FOLDER/train/<class>/ and FOLDER/val/<class>/, where there is ``val``."""

    train: Files
    val: Files

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(self.train)

    @property
    def paths(self) -> list[Path]:
        """Every file."""
        return [path for files in (self.train, self.val) for paths in files.values() for path in paths]

    def without(self, broken: Mapping[Path, str]) -> Parts:
        """The same less some files."""

        def rest(files: Files) -> Files:
            return {name: [path for path in paths if path not in broken] for name, paths in files.items()}

        return Parts(rest(self.train), rest(self.val))

    def divided(self, share: float, seed: int) -> tuple[Files, Files]:
        """Files to train with and to evaluate on; ``share`` of each class where there is no ``val`` folder."""
        return (self.train, self.val) if self.val else hold_out_files(self.train, share, seed)


def list_parts(root: Path) -> Parts:
    """The files of a folder of classes.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: Fewer than two classes, a class without images, or other classes in ``val`` than in ``train``.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}" if not root.exists() else f"{root} is a file, not a folder")
    if not ((root / "train").is_dir() and (root / "val").is_dir()):
        return Parts(list_classes(root), {})
    train = list_classes(root / "train")
    return Parts(train, list_classes(root / "val", tuple(train)))


def list_classes(root: Path, expected: tuple[str, ...] | None = None) -> Files:
    """Image files of each class folder, sorted; links to folders are not followed."""
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if expected is not None and tuple(names) != expected:
        raise ValueError(f"{root} must hold the classes of training {list(expected)}, got {names}")
    if len(names) < 2:
        raise ValueError(f"{root} must hold a folder for each of at least two classes, got {names}")
    files = {name: sorted(_images_under(root / name)) for name in names}
    for name, paths in files.items():
        if not paths:
            raise ValueError(f"class {name!r} has no {', '.join(SUFFIXES)} image in {root / name}")
    return files


def _images_under(folder: Path) -> Iterable[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names if name.lower().endswith(SUFFIXES))


def survey(paths: Sequence[Path]) -> tuple[int, dict[Path, str]]:
    """1 channel if every image is grey, else 3; and why files cannot be opened, from their headers."""
    grey, broken = True, {}
    for path in tqdm(paths, desc="looking at images", unit=" images", disable=None if len(paths) > 1000 else True):
        try:
            grey &= is_grey(path)
        except (ImageReadError, OSError) as error:
            broken[path] = str(error)
    return 1 if grey else 3, broken


def refuse(broken: Mapping[Any, str], count: int) -> None:
    """Raise ValueError that names the first of the broken files, if there are any."""
    if broken:
        reasons = list(broken.values())
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise ValueError(
            f"{len(broken)} of {count} images cannot be read: {'; '.join(reasons[:SHOWN])}{more}; "
            "repair or remove them, or skip them (--data.on_broken=skip, in eval --skip-broken)"
        )


def hold_out_files(files: Files, share: float, seed: int) -> tuple[Files, Files]:
    """The same share of every class, at least one image, for validation."""
    random = torch.Generator().manual_seed(seed)
    train, val = {}, {}
    for name, paths in files.items():
        stay, held = draw_share(len(paths), share, name, random)
        train[name], val[name] = ([paths[i] for i in chosen] for chosen in (stay, held))
    return train, val


def expect_all_classes(train: Tensor, val: Tensor, classes: Sequence[str], where: str | Path) -> None:
    """Raise ValueError unless every class occurs in the labels of both parts."""
    for part, labels in (("training", train), ("validation", val)):
        for label, name in enumerate(classes):
            if not (labels == label).any():
                raise ValueError(
                    f"class {name!r} has no readable {part} image in {where}; add some or remove the folder"
                )
