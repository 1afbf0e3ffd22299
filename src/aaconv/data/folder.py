"""Class folders: FOLDER/<class>/<image>, or FOLDER/train/<class>/ with FOLDER/val/<class>/.

Letters: n images, C channels, E edge in pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from aaconv._checks import expect_int, expect_ratio
from aaconv.data.images import ImageReadError, read_image
from aaconv.data.listing import expect_all_classes, list_parts, refuse, survey
from aaconv.data.splits import ImageData, Split

MAX_BYTES = 4 * 2**30  # of decoded images, which stay in memory


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
    parts = list_parts(Path(folder))
    everything = parts.paths
    channels, broken = survey(everything)
    if not skip_broken:
        refuse(broken, len(everything))
    if (size := len(everything) * channels * edge * edge) > MAX_BYTES:
        raise ValueError(
            f"{len(everything)} images of {edge}x{edge} take {size / 2**30:.1f} GiB, the limit is "
            f"{MAX_BYTES / 2**30:.0f} GiB; use a smaller edge"
        )
    train_files, val_files = parts.divided(held_out, seed)
    bar = tqdm(total=len(everything), desc="reading images", unit=" images", disable=None)
    train, unread = _decode(train_files, channels, edge, bar)
    val, unread_too = _decode(val_files, channels, edge, bar)
    bar.close()
    failed = unread + unread_too
    if not skip_broken:
        refuse(dict(enumerate(failed)), len(everything))
    expect_all_classes(train.labels, val.labels, parts.classes, folder)
    return ImageData.in_memory(train, val, parts.classes, skipped=tuple(failed))


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
