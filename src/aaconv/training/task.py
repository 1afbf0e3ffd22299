"""Classification as a Lightning module."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aaconv.data.augmentation import Mixer, crop_and_flip
from aaconv.data.splits import Draw
from aaconv.training.checkpoint import ModelCard
from aaconv.training.config import SMALL, Recipe
from aaconv.training.loaders import Batch
from aaconv.training.meter import Meter
from aaconv.training.optimization import build_optimizer, build_schedule


class ClassificationTask(pl.LightningModule):
    """Cross-entropy of a recipe's network on augmented batches.

    Args:
        model: Images -> logits.
        card: Normalises the images.
        recipe: The run.
        steps: Optimiser steps of an epoch.
    """

    def __init__(self, model: nn.Module, card: ModelCard, recipe: Recipe, steps: int):
        super().__init__()
        self.model = model
        self.card, self.recipe, self.steps = card, recipe, steps
        augment = recipe.augment
        self.padding = augment.padding if augment.crop == "pad" else 0
        self.flip = augment.flip and recipe.data.name in SMALL  # files are mirrored when they are read
        self.mixer = Mixer(len(card.classes), mixup=augment.mixup, cutmix=augment.cutmix)
        self.meter, self.val_meter = Meter(), Meter()

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
        logits = self(images)
        self.val_meter.add(F.cross_entropy(logits, labels), logits, labels)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.recipe.optimizer, self.recipe.batch_size)
        schedule = build_schedule(optimizer, self.recipe, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _logits(self, images: Tensor) -> Tensor:
        inner = torch.channels_last if self.recipe.machine.channels_last else torch.contiguous_format
        return self.model(images.contiguous(memory_format=inner))
