"""How well a checkpoint does on labelled images.

Letters: n images, c classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from aaconv._checks import expect_int, expect_one_of
from aaconv._files import write_text
from aaconv.data.files import Readable, labelled
from aaconv.training.checkpoint import ModelCard, load_checkpoint
from aaconv.training.loaders import Share, val_loader
from aaconv.training.meter import ClassMeter


@dataclass(frozen=True)
class Evaluation:
    """What was measured; accuracies are shares of 1."""

    checkpoint: str
    data: str
    images: int
    skipped: int
    accuracy: float
    top5: float
    loss: float

    def __str__(self) -> str:
        left_out = f", {self.skipped} unreadable ones left out" if self.skipped else ""
        return (
            f"accuracy {self.accuracy:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.4f} on {self.images:,} images of "
            f"{self.data}{left_out}"
        )

    def write(self, path: str | Path) -> None:
        """As JSON."""
        write_text(path, json.dumps(asdict(self), indent=2))


def evaluate(
    checkpoint: str | Path,
    data: str,
    *,
    path: str | Path | None = None,
    batch_size: int = 128,
    workers: int = 0,
    on_broken: str = "fail",
) -> Evaluation:
    """Evaluate a checkpoint of ``aaconv train``.

    Args:
        checkpoint: model.safetensors or best.safetensors of a run.
        data: "digits", "clutter", "cifar10", "cifar100", a folder of classes (its ``val`` part where there is one), or
            a pattern of shards that ends in .tar.
        path: Where CIFAR's archive lies.
        batch_size: Images at a time.
        workers: Processes that read images.
        on_broken: "fail" or "skip".

    Raises:
        FileNotFoundError: No such checkpoint or images.
        ValueError: The checkpoint is damaged, or the images have other classes than it.
    """
    expect_int("batch_size", batch_size)
    expect_one_of("on_broken", on_broken, ("fail", "skip"))
    model, card = load_checkpoint(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    images, classes, skipped = _images(data, card, path, on_broken)
    _expect_same_classes(card, classes, data)
    meter = ClassMeter()
    with torch.inference_mode():
        for batch in tqdm(val_loader(images, batch_size, Share(), workers), desc="evaluating", disable=None):
            if not len(batch.labels):  # nothing but broken images
                continue
            logits = model(card.normalize(batch.images.to(device)))
            labels = batch.labels.to(device)
            meter.add(F.cross_entropy(logits, labels), logits, labels)
    means = meter.means()
    count = int(meter.totals[3])
    if hasattr(images, "__len__"):
        skipped += len(images) - count
    if not count:
        raise ValueError(f"none of the images of {data} can be read")
    return Evaluation(str(checkpoint), data, count, skipped, means["accuracy"], means["top5"], means["loss"])


def _images(data: str, card: ModelCard, path: str | Path | None, on_broken: str) -> tuple[Any, Sequence[str], int]:
    """The images as the checkpoint's network wants them, their classes, and how many were left out."""
    if data in ("digits", "clutter"):
        from aaconv.data.clutter import cluttered_digits
        from aaconv.data.digit_pairs import digit_pairs

        made = (digit_pairs if data == "digits" else cluttered_digits)(edge=card.edge)
        return made.val, made.classes, 0
    if data in ("cifar10", "cifar100"):
        from aaconv.data.cifar import load_cifar

        if path is None:
            raise ValueError(f"--path must say where {data} lies; 'aaconv data get {data}' fetches it")
        made = load_cifar(data, path)
        return made.val, made.classes, 0
    if data.endswith(".tar"):
        from aaconv.data.shards import load_shards

        classes = len(card.classes)
        shards = load_shards(
            data, data, samples=1, classes=classes, size=card.edge, crop_pct=card.crop_pct, on_broken=on_broken,
        )  # fmt: skip
        shards = replace(shards, val=replace(shards.val, view=replace(shards.val.view, channels=card.channels)))
        return shards.val, card.classes, 0
    return _folder(data, card, on_broken)


def _folder(data: str, card: ModelCard, on_broken: str) -> tuple[Any, Sequence[str], int]:
    """All of a folder's images, or those of its ``val`` part."""
    from aaconv.data.listing import list_parts, refuse, survey
    from aaconv.data.views import View

    root = Path(data)
    parts = list_parts(root)
    files = parts.val or parts.train
    paths = [path for group in files.values() for path in group]
    _, broken = survey(paths)
    if on_broken == "fail":
        refuse(broken, len(paths))
    files = {name: [path for path in group if path not in broken] for name, group in files.items()}
    view = View(card.edge, card.channels, card.crop_pct)
    found = labelled(root, files, view, "fail")
    return found if on_broken == "fail" else Readable(found), parts.classes, len(broken)


def _expect_same_classes(card: ModelCard, classes: Sequence[str], data: str) -> None:
    if tuple(classes) != tuple(card.classes):
        strange = [name for name in classes if name not in card.classes] or list(classes)
        raise ValueError(
            f"{data} must have the {len(card.classes)} classes of the checkpoint ({', '.join(card.classes[:3])}, ...), "
            f"got {len(classes)}, among them {strange[0]!r}"
        )
