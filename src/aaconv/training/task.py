"""What is trained, as Lightning modules: what all tasks share, and classification."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aaconv.data.augmentation import Mixer, crop_and_flip
from aaconv.data.splits import Draw
from aaconv.training.checkpoint import ModelCard
from aaconv.training.config import SMALL, Recipe, RunConfig
from aaconv.training.loaders import Batch
from aaconv.training.meter import ClassMeter
from aaconv.training.optimization import build_optimizer, build_schedule


class Task(pl.LightningModule):
    """A network in training. A task has its own steps, and says by what its networks are judged.

    Args:
        model: What is trained.
        recipe: The run.
        steps: Optimiser steps of an epoch.
    """

    SCORE: str  # the metric that the best network has the most of
    COLUMNS: dict[str, tuple[str, str]]  # of the run's page: metric and format by header
    meter: Any  # of training, with the manners of Meter
    val_meter: Any  # of evaluation: means(prefix) and reset()

    def __init__(self, model: nn.Module, recipe: RunConfig, steps: int):
        super().__init__()
        self.model, self.recipe, self.steps = model, recipe, steps

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.recipe.optimizer, self.recipe.batch_size)
        schedule = build_schedule(optimizer, self.recipe, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ClassificationTask(Task):
    """Cross-entropy of a recipe's network on augmented batches.

    Args:
        model: Images -> logits.
        card: Normalises the images.
        recipe: The run.
        steps: Optimiser steps of an epoch.
    """

    SCORE = "accuracy"
    COLUMNS = {  # noqa: RUF012
        "evaluation accuracy": ("val_accuracy", ".2%"),
        "top-5": ("val_top5", ".2%"),
        "loss": ("val_loss", ".4f"),
    }
    recipe: Recipe

    def __init__(self, model: nn.Module, card: ModelCard, recipe: Recipe, steps: int):
        super().__init__(model, recipe, steps)
        self.card = card
        augment = recipe.augment
        self.padding = augment.padding if augment.crop == "pad" else 0
        self.flip = augment.flip and recipe.data.name in SMALL  # files are mirrored when they are read
        self.mixer = Mixer(len(card.classes), mixup=augment.mixup, cutmix=augment.cutmix)
        self.meter, self.val_meter = ClassMeter(), ClassMeter()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [b, C, H, W] -> logits [b, c]."""
        return self._logits(self.card.normalize(images))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, labels, noise = batch
        if self.padding or self.flip:
            images = crop_and_flip(images, noise, padding=self.padding, flip=self.flip)
        # Mixed by numbers of this device's batch, so that a resumed run mixes alike.
        number = batch_index * self.trainer.world_size + self.global_rank
        draw = Draw(self.recipe.seed, self.current_epoch)
        mixed, targets = self.mixer(self.card.normalize(images), labels, draw, number)
        logits = self._logits(mixed)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        self.meter.add(loss, logits, labels)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images, labels, _ = batch
        if not len(labels):  # nothing but broken images
            return
        logits = self(images)
        self.val_meter.add(F.cross_entropy(logits, labels), logits, labels)

    def _logits(self, images: Tensor) -> Tensor:
        inner = torch.channels_last if self.recipe.machine.channels_last else torch.contiguous_format
        return self.model(images.contiguous(memory_format=inner))
