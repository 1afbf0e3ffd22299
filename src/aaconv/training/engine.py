"""pytorch-lightning's trainer, set up from a recipe."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from aaconv.training.callbacks import Bar, History
from aaconv.training.config import MachineConfig, RunConfig
from aaconv.training.keeping import Keeper, RandomStates, WholeFiles

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
# Class of pytorch_lightning.loggers, and the argument that takes the run's folder.
LOGGERS = {
    "wandb": ("WandbLogger", "save_dir"),
    "mlflow": ("MLFlowLogger", "save_dir"),
    "comet": ("CometLogger", "offline_directory"),
    "neptune": ("NeptuneLogger", None),
}


def build_trainer(recipe: RunConfig, folder: Path, history: History, keeper: Keeper, bar: str | None) -> pl.Trainer:
    """The trainer of a run; ``bar`` is the bar's title, None shows none.

    Raises:
        ValueError: A device or precision that this machine does not have.
        ModuleNotFoundError: A logger's package is not installed.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    # Its advice is about loaders that it thinks are not resumable, and about its own loggers and bars.
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    machine = recipe.machine
    callbacks: list[Callback] = [RandomStates(), history]
    if bar is not None:
        callbacks.append(Bar(bar, recipe.batch_size))
    if recipe.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=recipe.ema_decay))
    devices, nodes = _launched(machine)
    plugins: list[Any] = [WholeFiles()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # the same command goes on, whoever gives it
    try:
        return pl.Trainer(
            accelerator=machine.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="auto" if devices * nodes == 1 else _replicas(),
            precision=PRECISIONS[machine.precision],  # type: ignore[arg-type]
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.optimizer.clip_norm or None,
            sync_batchnorm=machine.sync_batch_norm,
            callbacks=[*callbacks, keeper],
            plugins=plugins,
            logger=[_logger(name, folder) for name in machine.loggers],
            default_root_dir=folder,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
        )
    except (RuntimeError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise ValueError(f"machine: {error}") from error


def _replicas() -> DDPStrategy:
    """The network whole on each device: networks of this size gain nothing from being cut up."""
    # Running statistics stay each device's own in training; evaluation takes the first's (see Keeper).
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def _launched(machine: MachineConfig) -> tuple[int, int]:
    """Devices of this machine and machines, as torchrun or SLURM started us, or as the recipe has it."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ.get("SLURM_NTASKS", nodes)) // nodes, nodes
    if machine.devices != "auto":
        return machine.devices, machine.nodes
    return max(1, torch.cuda.device_count() if machine.accelerator != "cpu" else 1), machine.nodes


class _TensorBoard(TensorBoardLogger):
    """Without the empty ``hparams.yaml``: a run's settings are in ``recipe.yaml``, written whole."""

    def save(self) -> None:
        super(TensorBoardLogger, self).save()


def _logger(name: str, folder: Path) -> Any:
    if name == "tensorboard":
        return _TensorBoard(folder, name="", version="tensorboard")
    kind, argument = LOGGERS[name]
    options = {argument: str(folder)} if argument else {}
    return getattr(importlib.import_module("pytorch_lightning.loggers"), kind)(**options)
