"""Class folders: FOLDER/<class>/<image>, or FOLDER/train/<class>/ with FOLDER/val/<class>/.

Letters: n images, C channels, E edge in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from aaconv._checks import expect_int, expect_ratio
from aaconv.data.images import SUFFIXES, ImageReadError, is_grey, read_image
from aaconv.data.splits import ImageData, Split

MAX_BYTES = 4 * 2**30  # of decoded images, which stay in memory
SHOWN = 3  # broken files that an error names


def load_folder(
    folder: str | Path, *, edge: int = 32, held_out: float = 0.2, seed: int = 0, skip_broken: bool = False
) -> ImageData:
    """Decode every image of a folder of classes, PNG and JPEG of any size, into memory.

    Args:
        folder: Holds a folder a class; or ``train`` and ``val``, each of which holds a folder a class.
        edge: Images are resized to E x E (shorter side, then centre).
        held_out: Share of each class kept for validation where there is no ``val`` folder.
        seed: Of the draw of those.
        skip_broken: Leave unreadable images out instead of raising; they are counted in ``skipped``.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No classes, a class without images, unreadable images, or more than fits in memory.
    """
    expect_int("edge", edge)
    expect_ratio("held_out", held_out)
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}" if not root.exists() else f"{root} is a file, not a folder")
    split = (root / "train").is_dir() and (root / "val").is_dir()
    files = _list_classes(root / "train" if split else root)
    classes = tuple(files)
    checked = _list_classes(root / "val", classes) if split else {}
    everything = [path for group in (files, checked) for paths in group.values() for path in paths]
    channels, broken = _survey(everything)
    if not skip_broken:
        _refuse(broken, len(everything))
    if (size := len(everything) * channels * edge * edge) > MAX_BYTES:
        raise ValueError(
            f"{len(everything)} images of {edge}x{edge} take {size / 2**30:.1f} GiB, the limit is "
            f"{MAX_BYTES / 2**30:.0f} GiB; use a smaller edge"
        )
    if not split:
        files, checked = _hold_out(files, held_out, seed)
    bar = tqdm(total=len(everything), desc="reading images", unit=" images", disable=None)
    train, unread = _decode(files, channels, edge, bar)
    val, unread_too = _decode(checked, channels, edge, bar)
    bar.close()
    failed = unread + unread_too
    if not skip_broken:
        _refuse(failed, len(everything))
    for name, part in (("training", train), ("validation", val)):
        missing = [label for i, label in enumerate(classes) if not (part.labels == i).any()]
        if missing:
            raise ValueError(
                f"class {missing[0]!r} has no readable {name} image in {root}; add some or remove the folder"
            )
    return ImageData(train, val, classes, skipped=tuple(failed))


def _list_classes(root: Path, expected: tuple[str, ...] | None = None) -> dict[str, list[Path]]:
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


def _survey(paths: list[Path]) -> tuple[int, list[str]]:
    """1 channel if every image is grey, else 3; and why files cannot be opened, from their headers."""
    grey, broken = True, []
    for path in paths:
        try:
            grey &= is_grey(path)
        except (ImageReadError, OSError) as error:
            broken.append(str(error))
    return 1 if grey else 3, broken


def _refuse(broken: list[str], count: int) -> None:
    if broken:
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise ValueError(
            f"{len(broken)} of {count} images cannot be read: {'; '.join(broken[:SHOWN])}{more}; "
            "repair or remove them, or skip them (--skip-broken)"
        )


def _hold_out(
    files: dict[str, list[Path]], share: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The same share of every class, at least one image, for validation."""
    random = torch.Generator().manual_seed(seed)
    train, val = {}, {}
    for name, paths in files.items():
        if len(paths) < 2:
            raise ValueError(f"class {name!r} needs at least 2 images to hold one out, got {len(paths)}")
        cut = min(max(1, round(share * len(paths))), len(paths) - 1)
        order = torch.randperm(len(paths), generator=random).tolist()
        val[name] = [paths[i] for i in order[:cut]]
        train[name] = [paths[i] for i in order[cut:]]
    return train, val


def _decode(files: dict[str, list[Path]], channels: int, edge: int, bar: tqdm) -> tuple[Split, list[str]]:
    """All readable images, and why the others are not."""
    images: list[Tensor] = []
    labels, broken = [], []
    for label, paths in enumerate(files.values()):
        for path in paths:
            try:
                images.append(read_image(path, channels, edge))
                labels.append(label)
            except (ImageReadError, OSError) as error:
                broken.append(str(error))
            bar.update()
    stacked = torch.stack(images) if images else torch.empty(0, channels, edge, edge, dtype=torch.uint8)
    return Split(stacked, torch.tensor(labels, dtype=torch.long)), broken
