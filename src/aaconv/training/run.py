"""Classification runs: from a recipe and its images to a trained network."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from aaconv.data.shards import ShardData
from aaconv.data.splits import Draw, ImageData
from aaconv.models import check_model_name, is_detector
from aaconv.models.complexity import measure_complexity
from aaconv.training.checkpoint import ModelCard
from aaconv.training.config import Recipe
from aaconv.training.fit import Job, TrainedRun, fit
from aaconv.training.loaders import EpochLoader, Plan, Share, train_loader, val_loader
from aaconv.training.sources import load_data, synthetic_data
from aaconv.training.task import ClassificationTask


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    data: ImageData | ShardData | None = None,
    title: str | None = "training",
    anyway: bool = False,
) -> TrainedRun:
    """Train to the end, from the last checkpoint where ``folder`` holds one.

    Args:
        recipe: The run.
        folder: Where everything goes; of machines that train together, on storage that they share.
        data: The images; None loads what the recipe names.
        title: Of bar and lines; None shows none.
        anyway: Go on although configuration, images or number of devices changed.

    Raises:
        FileNotFoundError: No such images.
        ValueError: Unknown model or unusable images; or the folder is in use, or holds another run.
        FloatingPointError: Loss or weights stopped being finite.
        Stopped: A signal came; the run is saved.
        Failed: Memory, disk or another process of the run failed.
    """
    _expect_classifier(recipe.model.name)
    job = ClassificationJob(recipe, load_data(recipe) if data is None else data)
    return fit(job, folder, title=title, anyway=anyway)


def dry_run(recipe: Recipe) -> str:
    """Build everything and train for one step of a few synthetic images; returns a line that says what was built."""
    _expect_classifier(recipe.model.name)
    size = 2 * recipe.accumulate
    machine = replace(recipe.machine, devices=1, nodes=1, workers=0, loggers=(), accelerator="cpu")
    if machine.precision == "16":
        machine = replace(machine, precision="bf16")  # what CPUs have
    small = replace(recipe, epochs=1, batch_size=size, machine=machine)
    if small.augment.crop == "inception":  # happens while files are read, and there are none
        in_memory = replace(small.data, name="folder", crop_pct=1.0)
        small = replace(small, augment=replace(small.augment, crop="none"), data=in_memory)
    data = synthetic_data(recipe.data, size)
    with tempfile.TemporaryDirectory() as folder:
        run = train(small, folder, data=data, title="dry run")
    complexity = measure_complexity(run.model, data.channels, data.size)
    return (
        f"{recipe.model.name}: {complexity.parameters:,} parameters, {complexity.flops / 1e9:.2f} GFLOPs at "
        f"{recipe.data.size} pixels, {len(data.classes)} classes; one step on synthetic images works"
    )


def describe(data: ImageData | ShardData, recipe: Recipe) -> ModelCard:
    """The card of the network that ``recipe`` trains on ``data``."""
    return ModelCard(
        recipe.model.name,
        tuple(data.classes),
        data.channels,
        recipe.data.size,
        data.mean,
        data.std,
        options=dict(recipe.model.options),
        crop_pct=recipe.data.crop_pct,
        data=recipe.data.name,
    )


def _expect_classifier(name: str) -> None:
    check_model_name(name)
    if is_detector(name):
        raise ValueError(f"model.name must be a classifier, got {name}; 'aaconv detect train' trains detectors")


class ClassificationJob(Job[Recipe]):
    """A recipe with its labelled images."""

    def __init__(self, recipe: Recipe, data: ImageData | ShardData):
        self.recipe, self.data, self.card = recipe, data, describe(data, recipe)

    @property
    def count(self) -> int:
        return self.data.train.samples if isinstance(self.data, ShardData) else len(self.data.train)

    def fingerprint(self) -> str:
        return self.data.fingerprint()

    def build(self) -> nn.Module:
        return self.card.build()

    def task(self, model: nn.Module, steps: int) -> ClassificationTask:
        return ClassificationTask(model, self.card, self.recipe, steps)

    def train_loader(self, plan: Plan, draw: Draw, share: Share, start: int) -> EpochLoader:
        renew = self.data.renew if isinstance(self.data, ImageData) else None
        return train_loader(
            renew(draw.epoch) if renew else self.data.train,
            plan,
            draw,
            share,
            start=start,
            workers=self.recipe.machine.workers,
            magnitude=0 if self.recipe.data.name in ("files", "shards") else self.recipe.augment.rand_augment,
        )

    def val_loader(self, plan: Plan, share: Share) -> DataLoader[Any]:
        return val_loader(self.data.val, plan.local, share, self.recipe.machine.workers)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        complexity = measure_complexity(model, self.card.channels, self.card.edge)
        val = "all of their shards" if isinstance(self.data, ShardData) else f"{len(self.data.val):,}"
        counts = {"train": self.count, "val": val, "skipped": len(self.data.skipped)}
        return {**counts, "parameters": complexity.parameters, "gflops": complexity.flops / 1e9}
