"""Detection as a Lightning module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aaconv.data.coco import CocoSet
from aaconv.detection.config import DetectionRecipe
from aaconv.detection.loaders import BoxBatch
from aaconv.detection.scores import Found, score
from aaconv.training.meter import Meter
from aaconv.training.task import Task

FIGURES = ("map", "map50", "map75")  # of each epoch


class LossMeter(Meter):
    """The sum of the losses, and each."""

    NAMES = ("loss", "class_loss", "box_loss")

    def add(self, losses: dict[str, Tensor], count: int) -> None:
        """A batch: its mean losses as the detector gives them."""
        parts = torch.stack([losses[name].detach().double() for name in ("classification", "bbox_regression")])
        self.add_sums(count * torch.cat([parts.sum(0, keepdim=True), parts]), count)


class BoxMeter:
    """Average precision of what was found in the images of an epoch."""

    def __init__(self, truth: CocoSet):
        self.truth = truth
        self.found: list[Found] = []

    def add(self, indices: Sequence[int], detections: Sequence[dict[str, Tensor]]) -> None:
        """A batch: what the detector gives for each image."""
        self.found += [found_in(index, found) for index, found in zip(indices, detections, strict=True)]

    def means(self, prefix: str = "") -> dict[str, float]:
        """Each of ``FIGURES`` over all images of all devices.

        Raises:
            FloatingPointError: A detector that came apart gave boxes or scores that are not finite.
        """
        parts = _gathered(self.found)
        figures: list[float | None] = [None] * len(FIGURES)
        if parts is not None:
            figures = self._figures([one for part in parts for one in part])
        if _processes() > 1:
            torch.distributed.broadcast_object_list(figures, src=0)
        if any(figure is None for figure in figures):
            raise FloatingPointError("boxes or scores of the detector are not finite; use a smaller optimizer.lr")
        return {f"{prefix}{name}": figure for name, figure in zip(FIGURES, figures, strict=True) if figure is not None}

    def reset(self) -> None:
        """Forget everything."""
        self.found = []

    def _figures(self, found: list[Found]) -> list[float | None]:
        """None each where what was found is not finite: all processes must hear of it."""
        if not all(bool(one.boxes.isfinite().all() and one.scores.isfinite().all()) for one in found):
            return [None] * len(FIGURES)
        scores = score(self.truth, found)
        return [getattr(scores, name) for name in FIGURES]


def _gathered(found: list[Found]) -> list[list[Found]] | None:
    """What every process found, on the first one, which scores it; None on the others."""
    if _processes() == 1:
        return [found]
    first = torch.distributed.get_rank() == 0
    parts: list[Any] | None = [None] * _processes() if first else None
    torch.distributed.gather_object(found, parts, dst=0)
    return parts


def _processes() -> int:
    known = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if known else 1


def found_in(index: int, detections: dict[str, Tensor]) -> Found:
    """The detector's boxes, scores and labels of one image."""
    boxes, scores, labels = (detections[name].detach().cpu() for name in ("boxes", "scores", "labels"))
    return Found(index, boxes.float(), scores.float(), labels)


def as_floats(images: Tensor | list[Tensor], device: torch.device) -> list[Tensor]:
    """uint8 images [3, h, w] as the detector takes them, 0..1."""
    return [image.to(device).float() / 255 for image in images]


class DetectionTask(Task):
    """The detector's losses on a recipe's images.

    Args:
        model: A detector of ours or torchvision's.
        recipe: The run.
        steps: Optimiser steps of an epoch.
        truth: Of the images to evaluate on.
    """

    SCORE = "map"
    COLUMNS = {  # noqa: RUF012
        "mAP": ("val_map", ".4f"),
        "mAP50": ("val_map50", ".4f"),
        "mAP75": ("val_map75", ".4f"),
    }

    def __init__(self, model: nn.Module, recipe: DetectionRecipe, steps: int, truth: CocoSet):
        super().__init__(model, recipe, steps)
        self.meter, self.val_meter = LossMeter(), BoxMeter(truth)

    def training_step(self, batch: BoxBatch, batch_index: int) -> Tensor:
        losses = self.model(as_floats(batch.images, self.device), batch.targets)
        self.meter.add(losses, len(batch.indices))
        return losses["classification"] + losses["bbox_regression"]

    def validation_step(self, batch: BoxBatch, batch_index: int) -> None:
        if batch.indices:
            self.val_meter.add(batch.indices, self.model(as_floats(batch.images, self.device)))
