"""One training run in one folder: starts, goes on after an interruption, and leaves checkpoints, metrics and a card."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader

from aaconv.data.shards import ShardData
from aaconv.data.splits import Draw, ImageData
from aaconv.models import check_model_name
from aaconv.models.complexity import measure_complexity
from aaconv.training.callbacks import History
from aaconv.training.checkpoint import ModelCard, save_checkpoint
from aaconv.training.config import Recipe
from aaconv.training.engine import build_trainer
from aaconv.training.failures import explained
from aaconv.training.keeping import RESUME, Keeper, evaluated_model
from aaconv.training.loaders import Batch, Plan, Share, train_loader, val_loader
from aaconv.training.records import claim, write_card
from aaconv.training.sources import load_data, synthetic_data
from aaconv.training.task import ClassificationTask

WEIGHTS, LOCK = "model.safetensors", ".lock"


@dataclass(frozen=True)
class TrainedRun:
    """What a finished run leaves."""

    model: nn.Module
    card: ModelCard
    history: list[dict[str, float]]  # a row an epoch: epoch, step, {train,val}_{loss,accuracy,top5}, seconds
    folder: Path
    rank: int = 0  # of the process

    @property
    def weights(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.folder / WEIGHTS

    @property
    def seconds(self) -> float:
        """Training and evaluation time of all epochs."""
        return sum(row["seconds"] for row in self.history)


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
    folder = Path(folder)
    check_model_name(recipe.model.name)
    data = load_data(recipe) if data is None else data
    with locked(folder):
        return _train(recipe, folder, data, title, anyway)


def _train(recipe: Recipe, folder: Path, data: ImageData | ShardData, title: str | None, anyway: bool) -> TrainedRun:
    shown = sys.stderr.isatty()
    card = describe(data, recipe)
    history = History(folder, None if shown else title)
    keeper = Keeper(folder, card, recipe.machine.save_steps, recipe.machine.save_minutes)
    trainer = build_trainer(recipe, folder, history, keeper, title if shown else None)
    plan = Plan(_count(data), recipe.batch_size, recipe.accumulate, trainer.world_size)
    if _is_first():
        claim(folder, recipe, data.fingerprint(), trainer.world_size, anyway=anyway)
    torch.manual_seed(recipe.seed)
    model = _prepare(card.build(), recipe)
    task = ClassificationTask(model, card, recipe, plan.steps)
    start = _resume_point(folder)
    with explained(folder):
        trainer.fit(task, datamodule=EpochData(data, recipe, plan), ckpt_path=start, weights_only=True)
        model = evaluated_model(trainer)
        if trainer.is_global_zero:
            save_checkpoint(folder / WEIGHTS, model, card)
            write_card(folder, recipe, card, history.rows, _facts(model, card, data))
    return TrainedRun(model.eval(), card, history.rows, folder, trainer.global_rank)


def dry_run(recipe: Recipe) -> str:
    """Build everything and train for one step of a few synthetic images; returns a line that says what was built."""
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


class EpochData(pl.LightningDataModule):
    """A loader an epoch; in the epoch that a run goes on in, from the batch after its checkpoint."""

    def __init__(self, data: ImageData | ShardData, recipe: Recipe, plan: Plan):
        super().__init__()
        self.data, self.recipe, self.plan = data, recipe, plan

    def train_dataloader(self) -> DataLoader[Batch]:
        if self.trainer is None:
            raise RuntimeError("the loader belongs to a trainer's epoch")
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        epoch = self.trainer.current_epoch
        start = 0 if progress.is_last_batch else progress.current.processed
        renew = self.data.renew if isinstance(self.data, ImageData) else None
        return train_loader(
            renew(epoch) if renew else self.data.train,
            self.plan,
            Draw(self.recipe.seed, epoch),
            self._share,
            start=start,
            workers=self.recipe.machine.workers,
            magnitude=0 if self.recipe.data.name in ("files", "shards") else self.recipe.augment.rand_augment,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        return val_loader(self.data.val, self.plan.local, self._share, self.recipe.machine.workers)

    @property
    def _share(self) -> Share:
        if self.trainer is None:
            return Share()
        return Share(self.trainer.global_rank, self.trainer.world_size)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder, so that two runs do not write into it; the system lets go of it when the process ends."""
    if not _is_first():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"--out must be a folder, {folder} is a file") from error
    lock, holder = FileLock(folder / LOCK), folder / f"{LOCK}.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise ValueError(f"{folder} is in use by {who}; wait for it, stop it, or use another --out folder") from error
    for rest in folder.glob(f".{RESUME}.*"):  # of a run that was killed while it saved
        rest.unlink()
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _is_first() -> bool:
    """Whether this is the process that writes, known before the trainer is."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _prepare(model: nn.Module, recipe: Recipe) -> nn.Module:
    if recipe.machine.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.machine.compile:
        model.compile()
    return model


def _resume_point(folder: Path) -> Path | None:
    """The last checkpoint, if there is one that loads."""
    path = folder / RESUME
    if not path.exists():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of damaged bytes the unpickler makes errors of any kind
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read ({reason}); remove it to start anew") from error
    return path


def _count(data: ImageData | ShardData) -> int:
    return data.train.samples if isinstance(data, ShardData) else len(data.train)


def _facts(model: nn.Module, card: ModelCard, data: ImageData | ShardData) -> dict[str, Any]:
    complexity = measure_complexity(model.cpu(), card.channels, card.edge)
    val = "all of their shards" if isinstance(data, ShardData) else f"{len(data.val):,}"
    counts = {"train": _count(data), "val": val, "skipped": len(data.skipped)}
    return {**counts, "parameters": complexity.parameters, "gflops": complexity.flops / 1e9}
