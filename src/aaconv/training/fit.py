"""One run in one folder, whatever the task: starts, goes on after a stop, leaves checkpoints, metrics and a page."""

from __future__ import annotations

import os
import platform
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader

from aaconv._checks import expect_utf8
from aaconv._files import remove_unfinished
from aaconv.data.splits import Draw
from aaconv.training.callbacks import History
from aaconv.training.checkpoint import ModelCard, save_checkpoint
from aaconv.training.config import RunConfig
from aaconv.training.engine import build_trainer
from aaconv.training.failures import explained
from aaconv.training.keeping import RESUME, Keeper, evaluated_model
from aaconv.training.loaders import EpochLoader, Plan, Share
from aaconv.training.records import claim, write_card
from aaconv.training.task import Task

WEIGHTS, LOCK = "model.safetensors", ".lock"
R = TypeVar("R", bound=RunConfig)


class Job(ABC, Generic[R]):
    """What a run trains: a recipe with its images."""

    recipe: R
    card: ModelCard  # of the network

    @property
    @abstractmethod
    def count(self) -> int:
        """Training images."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash that changes when the images do."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network as training begins."""

    @abstractmethod
    def task(self, model: nn.Module, steps: int) -> Task:
        """How it is trained, ``steps`` optimiser steps an epoch."""

    @abstractmethod
    def train_loader(self, plan: Plan, draw: Draw, share: Share, start: int) -> EpochLoader:
        """An epoch's batches on one device, from batch ``start`` on."""

    @abstractmethod
    def val_loader(self, plan: Plan, share: Share) -> DataLoader[Any]:
        """Every image to evaluate on, once over all devices."""

    @abstractmethod
    def facts(self, model: nn.Module) -> dict[str, Any]:
        """For the run's page: train and val images, skipped ones, parameters, gflops."""


@dataclass(frozen=True)
class TrainedRun:
    """What a finished run leaves."""

    model: nn.Module
    card: ModelCard
    history: list[dict[str, float]]  # a row an epoch: epoch, step, train_ and val_ metrics, seconds
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


def fit(job: Job[Any], folder: str | Path, *, title: str | None = "training", anyway: bool = False) -> TrainedRun:
    """Train to the end, from the last checkpoint where ``folder`` holds one; see ``aaconv.training.run.train``."""
    folder = Path(folder)
    with locked(folder):
        return _fit(job, folder, title, anyway)


def _fit(job: Job[Any], folder: Path, title: str | None, anyway: bool) -> TrainedRun:
    shown = sys.stderr.isatty()
    recipe, card = job.recipe, job.card
    history = History(folder, None if shown else title)
    keeper = Keeper(folder, card, recipe.machine.save_steps, recipe.machine.save_minutes)
    trainer = build_trainer(recipe, folder, history, keeper, title if shown else None)
    plan = Plan(job.count, recipe.batch_size, recipe.accumulate, trainer.world_size)
    torch.manual_seed(recipe.seed)
    model = job.build()
    if is_first():
        claim(folder, recipe, job.fingerprint(), trainer.world_size, anyway=anyway)
    task = job.task(_prepare(model, recipe), plan.steps)
    start = _resume_point(folder)
    with explained(folder):
        trainer.fit(task, datamodule=EpochData(job, plan), ckpt_path=start, weights_only=True)
        model = evaluated_model(trainer)
        if trainer.is_global_zero:
            write_card(folder, recipe, card, history.rows, job.facts(model.cpu()), task)
            save_checkpoint(folder / WEIGHTS, model, card)  # last: a run that has them is finished
    return TrainedRun(model.eval(), card, history.rows, folder, trainer.global_rank)


class EpochData(pl.LightningDataModule):
    """A loader an epoch; in the epoch that a run goes on in, from the batch after its checkpoint."""

    def __init__(self, job: Job[Any], plan: Plan):
        super().__init__()
        self.job, self.plan = job, plan

    def train_dataloader(self) -> EpochLoader:
        if self.trainer is None:
            raise RuntimeError("the loader belongs to a trainer's epoch")
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        start = 0 if progress.is_last_batch else progress.current.processed
        draw = Draw(self.job.recipe.seed, self.trainer.current_epoch)
        return self.job.train_loader(self.plan, draw, self._share, start)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.job.val_loader(self.plan, self._share)

    @property
    def _share(self) -> Share:
        if self.trainer is None:
            return Share()
        return Share(self.trainer.global_rank, self.trainer.world_size)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder, so that two runs do not write into it; the system lets go of it when the process ends."""
    if not is_first():
        yield
        return
    expect_utf8("--out", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"--out must be a folder, {folder} is a file") from error
    lock, holder = FileLock(folder / LOCK), folder / f"{LOCK}.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        try:
            who = holder.read_text(encoding="utf-8")
        except OSError:  # it is just beginning or ending
            who = "another process"
        raise ValueError(f"{folder} is in use by {who}; wait for it, stop it, or use another --out folder") from error
    remove_unfinished(folder, all_processes=True)  # nobody else writes here now
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_first() -> bool:
    """Whether this is the process that writes, known before the trainer is."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _prepare(model: nn.Module, recipe: RunConfig) -> nn.Module:
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
