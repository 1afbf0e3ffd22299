"""The trainer is set up as the recipe, the launcher and the machine say."""

import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("pytorch_lightning")

from aaconv.training import engine
from aaconv.training.config import MachineConfig

SLURM = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
LAUNCHED = {
    "recipe": ({}, {"devices": 3, "nodes": 2}, (3, 2)),
    "automatic": ({}, {"accelerator": "cpu"}, (1, 1)),
    "torchrun": ({"LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}, {"devices": 3}, (4, 2)),
    "torchrun on one machine": ({"LOCAL_WORLD_SIZE": "4"}, {}, (4, 1)),
    "slurm": (SLURM, {"devices": 3}, (4, 2)),
}


@pytest.mark.parametrize("case", LAUNCHED)
def test_who_started_us_says_how_many(monkeypatch, case):
    environment, options, expected = LAUNCHED[case]
    for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert engine._launched(MachineConfig(**options)) == expected


@pytest.mark.parametrize("cards, expected", [(0, 1), (4, 4)])
def test_all_gpus_where_there_are_some(monkeypatch, cards, expected):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(engine.torch.cuda, "device_count", lambda: cards)
    assert engine._launched(MachineConfig()) == (expected, 1)


@pytest.mark.parametrize(
    "name, options",
    [
        ("wandb", {"save_dir": "here"}),
        ("comet", {"offline_directory": "here"}),
        ("neptune", {}),
    ],
)
def test_loggers_get_the_run_s_folder(monkeypatch, name, options):
    kinds = {kind: lambda **given: given for kind, _ in engine.LOGGERS.values()}
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", SimpleNamespace(**kinds))
    assert engine._logger(name, "here") == options


def test_tensorboard_leaves_its_events_alone(tmp_path):
    logger = engine._logger("tensorboard", tmp_path)
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.save()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert ".tfevents." in events.name
