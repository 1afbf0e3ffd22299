"""What a run writes and says while it goes."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from aaconv._files import write_whole


class WholeFiles(TorchCheckpointIO):
    """Checkpoints written beside their target and renamed: Lightning's own go through the temp folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[Any], storage_options: Any = None
    ) -> None:
        write_whole(Path(path), lambda beside: torch.save(checkpoint, beside))


class History(Callback):
    """A row of metrics for each epoch, in a CSV file and in the checkpoint, so that a resumed run keeps them."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._began = 0.0

    def on_train_epoch_start(self, *args: Any) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        row = {"epoch": float(trainer.current_epoch + 1), "step": float(trainer.global_step), **values}
        self.rows.append({**row, "seconds": time.perf_counter() - self._began})
        write_whole(self.path, self._write)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])

    def _write(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows)


class LinePerEpoch(Callback):
    """Progress where no terminal shows a bar."""

    def __init__(self, title: str):
        self.title = title

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        values = ", ".join(f"{name} {float(value):.3f}" for name, value in sorted(trainer.callback_metrics.items()))
        print(f"{self.title} {trainer.current_epoch + 1}/{trainer.max_epochs}: {values}", file=sys.stderr, flush=True)
