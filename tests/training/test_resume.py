"""Runs that are killed anywhere go on to the bit; runs on two devices compute what one does."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.data.pictures import make_tar, noise, pair

RECIPE = """
model: {name: aa_resnet10xs_r25, options: {drop_rate: 0.2}}
data: {name: folder, path: unused, size: 16}
augment: {crop: pad, padding: 2, flip: true, mixup: 0.2}
machine: {accelerator: cpu, loggers: [], save_steps: 2}
optimizer: {name: sgd, lr: 0.05, weight_decay: 1e-3, clip_norm: 1.0}
epochs: 3
batch_size: 16
accumulate: 2
label_smoothing: 0.1
ema_decay: 0.9
"""
BATCHES = 12  # of an epoch: 100 images, 16 a step, two batches a step


def job(folder, name, *overrides, log=None, **others):
    run = folder / name
    values = {"recipe": str(folder / "recipe.yaml"), "folder": str(run), "log": f"{run}.{log or 'log'}"}
    return {**values, "overrides": list(overrides), **others}


def perform(folder, jobs):
    """All jobs in one process of their own; the jobs with what came of them."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    script = Path(__file__).with_name("trials.py")
    done = subprocess.run([sys.executable, str(script), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.with_suffix(".done").read_text()), done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    (folder / "recipe.yaml").write_text(RECIPE)
    for shard in range(5):
        members = [pair(f"{i}", noise(20 * shard + i), i % 2) for i in range(20)]
        make_tar(folder / f"{shard}.tar", [member for sample in members for member in sample])
    return folder


SHARDS = (
    "--data.name=shards",
    "--data.path={folder}/{{0..4}}.tar",
    "--data.val_path={folder}/0.tar",
    "--data.classes=2",
)
SHARDS += ("--augment.crop=inception", "--machine.workers=2")
CASES = {
    "killed": ((), 1, "SIGKILL"),
    "killed, with workers": (("--machine.workers=2",), 1, "SIGKILL"),
    "killed, shards": (SHARDS, 1, "SIGKILL"),
    "killed, two processes": ((), 2, "SIGKILL"),
    "killed, two processes with workers": (("--machine.workers=2",), 2, "SIGKILL"),
    "terminated": (("--machine.save_steps=0",), 1, "SIGTERM"),  # saves because it is told to stop
    "terminated, two processes": ((), 2, "SIGTERM"),
    "interrupted": ((), 1, "SIGINT"),
}
COMMON = ("killed", "killed, shards", "killed, two processes with workers", "terminated", "terminated, two processes")


@pytest.fixture(scope="module")
def trials(folder, request):
    """Every case asked for: an uninterrupted run, one cut in the middle of the second epoch, and that one gone on."""
    asked = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.module is request.module and "trials" in item.fixturenames
    ]
    jobs = []
    for name in asked:
        overrides, world, kill = CASES[name]
        options = {"world": world}
        overrides = [item.format(folder=folder) for item in overrides]
        jobs.append(job(folder, f"{name}, whole", *overrides, **options))
        cut = {"kill": kill, "batches": BATCHES + 7, "pause": 0.05}
        jobs.append(job(folder, name, *overrides, log="cut", **options, **cut))
        jobs.append(job(folder, name, *overrides, log="resumed", **options))
    done, _ = perform(folder, jobs)
    return {name: done[3 * i : 3 * i + 3] for i, name in enumerate(asked)}


def lines(run, rank):
    return Path(f"{run['log']}.{rank}").read_text().splitlines()


def history(run):
    with (Path(run["folder"]) / "metrics.csv").open() as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in COMMON else [pytest.mark.hard]) for n in CASES])
def test_goes_on_to_the_bit(trials, name):
    _, world, kill = CASES[name]
    expect_same_to_the_bit(trials[name], world, kill, 3, BATCHES)


def expect_same_to_the_bit(runs, world, kill, epochs, batches):
    """An uninterrupted run, one cut in its second epoch of ``batches``, and that one gone on."""
    whole, cut, resumed = runs
    assert whole["codes"] == resumed["codes"] == [0] * world
    assert cut["codes"] == [-9 if kill == "SIGKILL" else 130] * world
    for rank in range(world):
        order, again = lines(whole, rank), lines(resumed, rank)
        assert len(order) == epochs * batches
        assert len(set(order)) == len(order)  # every batch is different, so that equal orders mean something
        assert batches < len(order) - len(again) < 2 * batches  # in the middle of the second epoch
        assert again == order[-len(again) :]
        if kill != "SIGKILL":  # nothing is done twice
            assert lines(cut, rank) + again == order
    for file in ("model.safetensors", "best.safetensors"):
        ours, theirs = (load_file(Path(run["folder"]) / file) for run in (resumed, whole))
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), (file, key)
    assert history(resumed) == history(whole)


@pytest.mark.hard
def test_checkpoint_survives_being_killed_while_it_is_written(folder):
    options = ("--machine.save_steps=1", "--epochs=60")
    first = job(folder, "saving", *options, kill="SIGKILL", batches=9, pause=0.02)
    others = [job(folder, "saving", *options, kill="SIGKILL", while_saving=True) for _ in range(10)]
    done, _ = perform(folder, [first, *others])
    assert [run["codes"] for run in done] == [[-9]] * 11
    assert [run["loads"] for run in done[1:]] == [True] * 10
    assert [path.name for path in (folder / "saving").glob(".last.ckpt.*")]  # it was in the middle of writing


def test_two_processes_compute_what_one_does(folder):
    plain = ("--model.options={}", "--augment.mixup=0", "--ema_decay=0", "--accumulate=1", "--epochs=2")
    one = job(folder, "one", *plain, no_batch_norm=True)
    two = job(folder, "two", *plain, no_batch_norm=True, world=2)
    other = job(folder, "other", *plain, "--seed=1", no_batch_norm=True)
    done, _ = perform(folder, [one, two, other])
    assert [run["codes"] for run in done] == [[0], [0, 0], [0]]
    ours, theirs, others = (load_file(Path(run["folder"]) / "model.safetensors") for run in done)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(others["head.weight"], theirs["head.weight"], atol=1e-3)
    for mine, its in zip(history(done[0]), history(done[1]), strict=True):
        assert float(mine["val_loss"]) == pytest.approx(float(its["val_loss"]), rel=1e-4)
