"""One training run in one folder: starts, goes on after an interruption, and leaves a checkpoint and its history."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from aaconv._checks import expect_int
from aaconv._files import write_text
from aaconv.data.splits import ImageData, Split
from aaconv.training.callbacks import History, LinePerEpoch, WholeFiles
from aaconv.training.checkpoint import ModelCard, save_checkpoint
from aaconv.training.task import ClassificationTask

RESUME, WEIGHTS, SETTINGS, METRICS = "last.ckpt", "model.safetensors", "settings.json", "metrics.csv"


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run; a folder goes on only under the settings it began with."""

    model: str
    data: str  # a folder, or the name of the embedded set
    edge: int = 32
    epochs: int = 20
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("edge", "epochs", "batch_size"):
            expect_int(name, getattr(self, name))
        expect_int("seed", self.seed, minimum=0)
        for name, least in (("lr", "above"), ("weight_decay", "at least")):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (least == "above" and value == 0):
                raise ValueError(f"{name} must be {least} 0 and finite, got {name}={value}")


@dataclass(frozen=True)
class TrainedRun:
    """What a finished run leaves."""

    model: nn.Module
    card: ModelCard
    history: list[dict[str, float]]  # a row an epoch: epoch, step, {train,val}_{loss,accuracy}, seconds
    folder: Path

    @property
    def weights(self) -> Path:
        """The checkpoint."""
        return self.folder / WEIGHTS

    @property
    def seconds(self) -> float:
        """Training and validation time of all epochs."""
        return sum(row["seconds"] for row in self.history)


def train(data: ImageData, settings: Settings, folder: str | Path, title: str = "training") -> TrainedRun:
    """Train to the end, from the last finished epoch where ``folder`` holds one.

    Raises:
        ValueError: The folder holds a run under other settings, or a batch is larger than the training set.
        FloatingPointError: The loss stopped being finite.
    """
    folder = Path(folder)
    if settings.batch_size > len(data.train):
        raise ValueError(f"batch_size must be at most the {len(data.train)} training images, got {settings.batch_size}")
    _claim(folder, settings)
    torch.manual_seed(settings.seed)
    card = describe(data, settings)
    steps = settings.epochs * (len(data.train) // settings.batch_size)
    task = ClassificationTask(card.build(), card, lr=settings.lr, weight_decay=settings.weight_decay, total_steps=steps)
    history = History(folder / METRICS)
    trainer = _trainer(settings, folder, history, title)
    trainer.fit(task, datamodule=EpochData(data, settings), ckpt_path=_resume_point(folder), weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    save_checkpoint(folder / WEIGHTS, task.model, card)
    return TrainedRun(task.model.eval(), card, history.rows, folder)


def describe(data: ImageData, settings: Settings) -> ModelCard:
    """The card of the network that ``settings`` train on ``data``: mean and deviation are the training set's."""
    pixels = data.train.images.float().div(255)
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3)).clamp(min=1e-3)
    return ModelCard(settings.model, data.classes, data.channels, data.edge, tuple(mean.tolist()), tuple(std.tolist()))


class EpochData(pl.LightningDataModule):
    """Loaders whose order depends on the seed and the epoch alone, so that a resumed run sees the same batches."""

    def __init__(self, data: ImageData, settings: Settings):
        super().__init__()
        self.data = data
        self.settings = settings

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        split = self.data.renew(epoch) if self.data.renew else self.data.train
        random = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(split), generator=random)
        return _batches(split, order, self.settings.batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        order = torch.arange(len(self.data.val))
        return _batches(self.data.val, order, self.settings.batch_size, drop_last=False)


def _batches(split: Split, order: Tensor, size: int, *, drop_last: bool) -> DataLoader:
    """Whole batches indexed out of memory at once."""
    indices = BatchSampler(order.tolist(), size, drop_last)
    return DataLoader(TensorDataset(split.images, split.labels), sampler=indices, batch_size=None)


def _claim(folder: Path, settings: Settings) -> None:
    """Write the settings into a new folder; refuse one that holds others."""
    path = folder / SETTINGS
    if not path.exists():
        text = json.dumps(asdict(settings), indent=2)
        write_text(path, text)
        return
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); use another --out folder") from error
    changed = [
        f"{name} {held.get(name)!r} -> {now!r}" for name, now in asdict(settings).items() if held.get(name) != now
    ]
    if changed:
        raise ValueError(f"{folder} holds a run with other settings ({', '.join(changed)}); use another --out folder")


def _resume_point(folder: Path) -> Path | None:
    """The last finished epoch's state, if there is one that loads."""
    path = folder / RESUME
    if not path.exists():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes the unpickler makes errors of any kind
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read ({reason}); remove it to start anew") from error
    return path


def _trainer(settings: Settings, folder: Path, history: History, title: str) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    # Loaders index memory, so workers would only cost; and there is no logger, metrics.csv is ours.
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    shown = sys.stderr.isatty()
    callbacks: list[Callback] = [history, ModelCheckpoint(dirpath=folder, filename=Path(RESUME).stem)]
    callbacks.append(TitledBar(title) if shown else LinePerEpoch(title))
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=settings.epochs,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        logger=False,
        enable_progress_bar=shown,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )


class TitledBar(TQDMProgressBar):
    """Lightning's bar with the run's title in front."""

    def __init__(self, title: str):
        super().__init__(leave=True)
        self.title = title

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.title} {trainer.current_epoch + 1}/{trainer.max_epochs}")
