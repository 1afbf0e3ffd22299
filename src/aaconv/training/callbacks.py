"""What a run writes and says while it goes."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from aaconv._files import write_whole
from aaconv.training.curves import plot_curves
from aaconv.training.meter import Meter

METRICS, CURVES = "metrics.csv", "curves.png"
DRAW_SECONDS = 60  # between pictures, at least
LOG_STEPS = 50  # optimiser steps between values that go to loggers


class History(Callback):
    """A row of metrics for each epoch, in a CSV file, to the loggers and in the checkpoint, so that a resumed run keeps
    them; a picture of them beside; and a line an epoch on the error stream where ``title`` is given.

    Args:
        folder: Gets ``metrics.csv`` and ``curves.png``.
        title: What the lines begin with, or None where a bar shows the progress.
    """

    def __init__(self, folder: Path, title: str | None):
        self.folder, self.title = folder, title
        self.rows: list[dict[str, float]] = []
        self._seconds = 0.0  # of this epoch, before the run was interrupted
        self._began = 0.0
        self._drawn = 0.0
        self._held: list[float] | None = None

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, task: Any, *args: Any) -> None:
        if self._held is not None:  # sums of all devices stand in the first one's meter
            task.meter.reset()
            if trainer.is_global_zero:
                task.meter.totals += task.meter.totals.new_tensor(self._held)
            self._held = None

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, *args: Any) -> None:
        if trainer.loggers and trainer.global_step % LOG_STEPS == 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self._log(trainer, {"step_loss": float(outputs["loss"]) * trainer.accumulate_grad_batches, "lr": rate})

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        metrics = {**task.meter.means("train_"), **task.val_meter.means("val_")}
        task.meter.reset()
        task.val_meter.reset()
        now = time.perf_counter()
        row = {"epoch": float(trainer.current_epoch + 1), "step": float(trainer.global_step), **metrics}
        self.rows.append({**row, "seconds": self._seconds + now - self._began})
        self._seconds, self._began = 0.0, now
        self._log(trainer, metrics)
        self._report(trainer.current_epoch + 1, trainer.max_epochs or 0, task.SCORE)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self._seconds + time.perf_counter() - self._began}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self._seconds = list(state["rows"]), state["seconds"]

    def on_save_checkpoint(self, trainer: pl.Trainer, task: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["meter"] = task.meter.summed().tolist()

    def on_load_checkpoint(self, trainer: pl.Trainer, task: Any, checkpoint: dict[str, Any]) -> None:
        self._held = checkpoint["meter"]

    def _log(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    @rank_zero_only
    def _report(self, epoch: int, epochs: int, score: str) -> None:
        write_whole(self.folder / METRICS, self._write)
        if epoch == epochs or time.monotonic() - self._drawn > DRAW_SECONDS:
            figure = plot_curves({"run": self.rows}, score)
            write_whole(self.folder / CURVES, lambda beside: figure.savefig(beside, dpi=120, format="png"))
            self._drawn = time.monotonic()
        if self.title is not None:
            shown = [f"{part}_{name}" for part in ("train", "val") for name in ("loss", score)]
            values = ", ".join(f"{name} {self.rows[-1][name]:.3f}" for name in shown if name in self.rows[-1])
            print(f"{self.title} {epoch}/{epochs}: {values}", file=sys.stderr, flush=True)

    def _write(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows)


def history_of(trainer: Any) -> History:
    """The metrics of a trainer's run."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, History))


class Bar(Callback):
    """One bar over the whole run: images a second, time left, loss and score of the epoch so far."""

    def __init__(self, title: str, images: int):
        self.title, self.images = title, images  # of an optimiser step
        self._bar: Any = None
        self._shown = 0.0
        self._val = ""

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        total = (trainer.max_epochs or 0) * task.steps * self.images
        self._bar = tqdm(
            total=total, initial=trainer.global_step * self.images, unit=" images", unit_scale=True, dynamic_ncols=True
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, task: Any) -> None:
        self._bar.set_description(f"{self.title} {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, *args: Any) -> None:
        self._bar.update(trainer.global_step * self.images - self._bar.n)
        if time.monotonic() - self._shown > 0.5:  # reading the sums waits for the device
            self._shown = time.monotonic()
            self._show(task.meter, task.SCORE)

    def on_validation_start(self, *args: Any) -> None:
        self._bar.set_postfix_str("evaluating")

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        rows = history_of(trainer).rows
        self._val = f", {task.SCORE} held out {rows[-1][f'val_{task.SCORE}']:.1%}" if rows else ""

    def teardown(self, *args: Any, **options: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def _show(self, meter: Meter, score: str) -> None:
        means = meter.own_means()
        own = f", {score} {means[score]:.1%}" if score in means else ""
        self._bar.set_postfix_str(f"loss {means['loss']:.3f}{own}{self._val}")
