"""Classification as a Lightning module."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aaconv.training.checkpoint import ModelCard

WARM_UP = 0.15  # of all steps


class ClassificationTask(pl.LightningModule):
    """Cross-entropy, AdamW, one-cycle learning rate over all steps.

    Args:
        model: Images -> logits.
        card: Normalises the images.
        lr: Peak of the cycle.
        weight_decay: Of AdamW; norms, biases and position tables have none.
        total_steps: Optimiser steps of the whole run.
    """

    def __init__(self, model: nn.Module, card: ModelCard, *, lr: float, weight_decay: float, total_steps: int):
        super().__init__()
        self.model = model
        self.card = card
        self.lr = lr
        self.weight_decay = weight_decay
        self.total_steps = total_steps

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.card.normalize(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.global_step}; use a smaller lr")
        self._log("train", loss, logits, labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        logits = self(images)
        self._log("val", F.cross_entropy(logits, labels), logits, labels)

    def configure_optimizers(self) -> Any:
        decayed = [p for name, p in self.model.named_parameters() if p.dim() > 1 and ".position." not in name]
        others = [p for name, p in self.model.named_parameters() if p.dim() <= 1 or ".position." in name]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.total_steps, pct_start=WARM_UP)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def _log(self, part: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(labels)}
        self.log(f"{part}_loss", loss, prog_bar=True, **options)
        self.log(f"{part}_accuracy", accuracy, prog_bar=True, **options)
