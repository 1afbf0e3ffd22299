"""Runs in processes of their own, to be killed: one fresh process imports everything once and forks each run.

``python trials.py JOBS.json`` does the jobs in order and writes what happened to each beside: exit codes, and the
batches that every process saw.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
import zlib
from pathlib import Path

import torch
from torch import nn

from aaconv._errors import Stopped
from aaconv.data.splits import ImageData, Split
from aaconv.detection.config import DetectionRecipe
from aaconv.detection.run import train as train_detector
from aaconv.detection.task import DetectionTask
from aaconv.training.checkpoint import ModelCard
from aaconv.training.config import Recipe
from aaconv.training.recipes import load_recipe
from aaconv.training.run import train
from aaconv.training.task import ClassificationTask

COUNT, EDGE = 100, 16
LIMIT = 120  # seconds that a run may take
LATE = ("aaconv.ops.cpu_kernels", "faster_coco_eval", "torchvision.transforms.v2")  # imported when they are needed


def tiny_data():
    """A hundred images, each different; the brighter half is the class."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (COUNT, 1, EDGE, EDGE), generator=random, dtype=torch.uint8)
    labels = torch.arange(COUNT) % 2
    images[labels == 1, :, :, EDGE // 2 :] += 100
    return ImageData.in_memory(Split(images, labels), Split(images[:30], labels[:30]), ("left", "right"))


def without_batch_norm(build):
    """Networks whose result does not depend on how a batch is cut."""

    def built(card):
        model = build(card)
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, nn.GroupNorm(1, child.num_features))
        return model

    return built


def work(job, rank, world, port):
    """One process of a run; its exit code."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    if world > 1:  # as torchrun starts them
        os.environ.update(zip(names, map(str, (rank, rank, world, world, 0, 1)), strict=True))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="trial")
        from pytorch_lightning.utilities.rank_zero import rank_zero_only

        rank_zero_only.rank = rank
    torch.set_num_threads(1)
    seen = open(f"{job['log']}.{rank}", "a")  # noqa: SIM115 (until the process ends)
    detects = job.get("detects", False)
    kind = DetectionTask if detects else ClassificationTask
    original = kind.training_step

    def step(task, batch, index):
        rest = torch.cat([target["boxes"] for target in batch.targets]) if detects else batch.noise
        print(*(zlib.crc32(part.numpy().tobytes()) for part in (batch.images, rest)), file=seen, flush=True)
        time.sleep(job.get("pause", 0))
        return original(task, batch, index)

    kind.training_step = step
    if job.get("no_batch_norm"):
        ModelCard.build = without_batch_norm(ModelCard.build)
    recipe = load_recipe(job["recipe"], job["overrides"], DetectionRecipe if detects else Recipe)
    in_memory = recipe.data.name == "folder"
    try:
        (train_detector if detects else train)(recipe, job["folder"], data=tiny_data() if in_memory else None)
    except Stopped:
        return 130
    return 0


def perform(job):
    """Fork the run's processes, end them where the job says, and return their exit codes."""
    world = job.get("world", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rest in Path(job["folder"]).glob(".last.ckpt.*"):
        rest.unlink()
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # so that its loader workers end with it
            code = 1
            try:
                code = work(job, rank, world, port)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # whoever of the two comes first
            os.setpgid(child, child)
        children.append(child)
    if "kill" in job:
        wait_until(job)
        for child in children:
            number = getattr(signal, job["kill"])
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(child, number)
    return [os.waitstatus_to_exitcode(wait(child)) for child in children]


def wait(child):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def wait_until(job):
    """Until the first process has seen ``batches`` batches, or is in the middle of writing a checkpoint."""
    log, end = Path(f"{job['log']}.0"), time.monotonic() + LIMIT
    while time.monotonic() < end:
        if job.get("while_saving"):
            if any(path.stat().st_size for path in Path(job["folder"]).glob(".last.ckpt.*")):
                return
            time.sleep(0.0005)
        elif log.exists() and len(log.read_text().splitlines()) >= job["batches"]:
            return
        else:
            time.sleep(0.005)


if __name__ == "__main__":
    for name in LATE:  # here, so that not every run does it
        importlib.import_module(name)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    for job in jobs:
        job["codes"] = perform(job)
        last = Path(job["folder"]) / "last.ckpt"
        if job.get("while_saving"):
            job["loads"] = last.exists() and bool(torch.load(last, weights_only=True)["state_dict"])
    Path(sys.argv[1]).with_suffix(".done").write_text(json.dumps(jobs))
