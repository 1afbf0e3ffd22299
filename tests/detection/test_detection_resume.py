"""Detectors' runs that are killed anywhere go on to the bit; runs on two devices compute what one does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("faster_coco_eval")
from aaconv.training.checkpoint import ModelCard, read_weights
from tests.detection.box_files import TRAIN, VAL, lay_part
from tests.training.test_resume import expect_same_to_the_bit, history, job, perform

RECIPE = """
model: {name: aa_retinanet_resnet10_fpn}
data: {name: coco, size: 64}
augment: {smallest: 0.5, largest: 1.5, flip: true}
machine: {accelerator: cpu, loggers: [], save_steps: 1}
optimizer: {name: sgd, lr: 0.01, weight_decay: 1e-3, clip_norm: 1.0}
epochs: 2
batch_size: 4
accumulate: 2
ema_decay: 0.9
"""
BATCHES = 6  # of an epoch: 13 images, 4 a step, two batches a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    (folder / "recipe.yaml").write_text(RECIPE)
    lay_part(folder, TRAIN, [(64, 64), (40, 60)] * 6 + [(64, 64)], empty=(3,))
    lay_part(folder, VAL, [(64, 64), (40, 60), (64, 64)], seed=1)
    return folder


def detection_job(folder, name, *overrides, **options):
    return job(folder, name, f"--data.path={folder}", *overrides, detects=True, **options)


CASES = {
    "killed": ((), 1, "SIGKILL", 3),
    "killed, with workers": (("--machine.workers=2",), 1, "SIGKILL", 3),
    "terminated, two processes": ((), 2, "SIGTERM", 1),
}
PLAIN = ("--ema_decay=0", "--accumulate=1", "--optimizer.lr=0.1")


@pytest.fixture(scope="module")
def trials(folder):
    """Uninterrupted runs on one device and on two; each case, cut in its second epoch and gone on; and runs on one
    device and on two without what looks at a whole batch.
    """
    jobs = {f"whole {world}": detection_job(folder, f"whole {world}", world=world) for world in (1, 2)}
    for name, (overrides, world, kill, batches) in CASES.items():
        cut = {"kill": kill, "batches": BATCHES + batches, "pause": 0.1}
        jobs[f"{name}, cut"] = detection_job(folder, name, *overrides, log="cut", world=world, **cut)
        jobs[f"{name}, resumed"] = detection_job(folder, name, *overrides, log="resumed", world=world)
    for world in (1, 2):
        jobs[f"plain {world}"] = detection_job(folder, f"plain {world}", *PLAIN, no_batch_norm=True, world=world)
    done, _ = perform(folder, list(jobs.values()))
    return dict(zip(jobs, done, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_goes_on_to_the_bit(trials, name):
    _, world, kill, _ = CASES[name]
    runs = (trials[f"whole {world}"], trials[f"{name}, cut"], trials[f"{name}, resumed"])
    expect_same_to_the_bit(runs, world, kill, 2, BATCHES)


def test_two_processes_compute_what_one_does(trials):
    one, two = trials["plain 1"], trials["plain 2"]
    assert (one["codes"], two["codes"]) == ([0], [0, 0])
    ours, theirs = (Path(run["folder"]) / "model.safetensors" for run in (one, two))
    _, entry = read_weights(theirs)
    torch.manual_seed(0)
    fresh = ModelCard(**json.loads(entry)).build().state_dict()
    ours, theirs = load_file(ours), load_file(theirs)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)
    moved = [key for key, value in theirs.items() if key in fresh and (value - fresh[key]).abs().max() > 1e-4]
    assert len(moved) > 70
    for mine, its in zip(history(one), history(two), strict=True):
        assert float(mine["train_loss"]) == pytest.approx(float(its["train_loss"]), rel=1e-4)
        assert float(mine["val_map"]) == pytest.approx(float(its["val_map"]), abs=1e-3)
