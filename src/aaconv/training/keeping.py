"""What makes a run safe: checkpoints that are whole, random numbers that go on, a stop that saves first."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, EMAWeightAveraging
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from aaconv._errors import Stopped
from aaconv._files import write_whole
from aaconv.training.callbacks import history_of
from aaconv.training.checkpoint import ModelCard, save_checkpoint

RESUME, BEST = "last.ckpt", "best.safetensors"


class WholeFiles(TorchCheckpointIO):
    """Checkpoints written beside their target, read back, then renamed: Lightning's own go through the temp folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[Any], storage_options: Any = None
    ) -> None:
        def write(beside: Path) -> None:
            try:
                torch.save(checkpoint, beside)
            except RuntimeError as error:  # torch's writer does not say why
                raise OSError(errno.EIO, f"{path} cannot be written, is the disk full?") from error
            torch.load(beside, map_location="cpu", weights_only=True, mmap=True)

        write_whole(Path(path), write)


class RandomStates(Callback):
    """Every process's random numbers go on where the checkpoint was made.

    They are put back at the first batch, since making loaders draws some.
    """

    def __init__(self) -> None:
        self._held: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"states": _gather(_random_state())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._held = state["states"]

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._held is not None and trainer.global_rank < len(self._held):
            _set_random_state(self._held[trainer.global_rank])
        self._held = None


class Keeper(Checkpoint):
    """Saves the run at the end of epochs and in between, the best network, and stops where going on makes no sense.

    Args:
        folder: Of the run.
        card: Of the network.
        save_steps: Optimiser steps between checkpoints inside an epoch, 0 for none.
        save_minutes: Minutes between them, 0 for none.

    Raises:
        Stopped: A signal to end came; a checkpoint is made at the next optimiser step.
        FloatingPointError: The loss or the weights stopped being finite; the last checkpoint stays.
    """

    def __init__(self, folder: Path, card: ModelCard, save_steps: int, save_minutes: float):
        self.folder, self.card = folder, card
        self.save_steps, self.save_seconds = save_steps, 60 * save_minutes
        self.best = -1.0
        self._saved = 0.0
        self._good = -1  # optimiser step of the last checkpoint
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._loss: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._saved = time.monotonic()
        if (self.folder / RESUME).exists():
            self._good = trainer.global_step
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)
            if number is not None:
                self._handlers[number] = signal.signal(number, self._note)

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int) -> None:
        if (index + 1) % trainer.accumulate_grad_batches:
            return  # gradients that are being added up are in no checkpoint
        loss, self._loss = self._loss, outputs["loss"].detach()
        if self._loss.device.type == "cpu":  # elsewhere looking at this step's loss would wait for it
            loss = self._loss
        bad = loss is not None and not bool(torch.isfinite(loss))
        bad, stop, due = _agree(trainer, [bad, self._signal is not None, self._due(trainer.global_step)])
        if bad:
            self._give_up(trainer, f"the loss stopped being finite at optimiser step {trainer.global_step}")
        if index + 1 < trainer.num_training_batches:  # the end of an epoch saves anyway, after validation
            if stop or due:
                self._save(trainer, task)
            if stop:
                self._stop(trainer)

    def on_validation_epoch_start(self, trainer: pl.Trainer, task: Any) -> None:
        if trainer.world_size > 1:  # running statistics are each process's own; the first one's are kept
            for buffer in task.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        score = history_of(trainer).rows[-1][f"val_{task.SCORE}"]
        if score > self.best:
            self.best = score
            self._check_weights(trainer, task)
            if trainer.is_global_zero:
                save_checkpoint(self.folder / BEST, evaluated_model(trainer), self.card)
        self._save(trainer, task)
        if _agree(trainer, [self._signal is not None])[0]:
            self._stop(trainer)

    def on_exception(self, *args: Any) -> None:
        self._restore_handlers()

    def on_train_end(self, *args: Any) -> None:
        self._restore_handlers()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def _note(self, number: int, frame: Any) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self._signal = number

    def _due(self, step: int) -> bool:
        by_step = bool(self.save_steps) and step % self.save_steps == 0
        return by_step or (bool(self.save_seconds) and time.monotonic() - self._saved > self.save_seconds)

    def _save(self, trainer: pl.Trainer, task: Any) -> None:
        self._check_weights(trainer, task)
        trainer.save_checkpoint(self.folder / RESUME)
        self._saved, self._good = time.monotonic(), trainer.global_step

    def _stop(self, trainer: pl.Trainer) -> None:
        name = signal.Signals(self._signal).name if self._signal else "another process"
        saved = f"saved {self.folder / RESUME} at optimiser step {trainer.global_step}"
        raise Stopped(f"stopped by {name}; {saved}; the same command goes on from there")

    def _check_weights(self, trainer: pl.Trainer, task: Any) -> None:
        values = [value for value in task.model.state_dict().values() if value.is_floating_point()]
        if not all(bool(value.isfinite().all()) for value in values):
            self._give_up(trainer, f"weights stopped being finite at optimiser step {trainer.global_step}")

    def _give_up(self, trainer: pl.Trainer, what: str) -> None:
        kept = f"the last good checkpoint is {self.folder / RESUME}, of step {self._good}"
        raise FloatingPointError(
            f"{what}; {kept if self._good >= 0 else 'there is no checkpoint yet'}; use a smaller optimizer.lr, or clip "
            "gradients with optimizer.clip_norm"
        )

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def evaluated_model(trainer: Any) -> nn.Module:
    """The network that validation sees: the moving average where there is one."""
    for callback in trainer.callbacks:
        if isinstance(callback, EMAWeightAveraging) and callback._average_model is not None:
            average: Any = callback._average_model.module
            return average.model
    return trainer.lightning_module.model


def _agree(trainer: pl.Trainer, flags: list[bool]) -> list[bool]:
    """Each flag, set where it is on any process: all must do the same."""
    if trainer.world_size == 1:
        return flags
    agreed = torch.tensor(flags, dtype=torch.int32, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
    return [bool(value) for value in agreed.tolist()]


def _gather(state: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states


def _random_state() -> dict[str, Any]:
    """Of torch, numpy, Python and the GPU, in types that processes may exchange and checkpoints may hold."""
    kind, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    version, words, gauss = random.getstate()
    state = {"torch": torch.get_rng_state().tolist(), "numpy": [kind, keys.tolist(), *rest]}
    state["python"] = [version, list(words), gauss]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
