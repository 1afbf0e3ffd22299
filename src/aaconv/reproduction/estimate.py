"""How long the runs will take, told before they start."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import torch

from aaconv.reproduction.plan import IMAGES
from aaconv.reproduction.runs import Job, recipe_of
from aaconv.training.config import Recipe
from aaconv.training.run import describe
from aaconv.training.sources import synthetic_data
from aaconv.training.task import ClassificationTask

# Of composing, evaluating, starting and saving, as a share of training steps; measured with two runs on two cores.
BESIDE = 0.45


def estimate_seconds(jobs: Sequence[Job], overrides: Sequence[str], workers: int) -> float:
    """How long the jobs will take from their start, from a few training steps of each arm timed here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        total = 0.0
        for (task, arm), count in Counter((job.task, job.arm) for job in jobs).items():
            recipe = recipe_of(Job(task, arm, 0), overrides)
            total += count * _step_seconds(recipe) * recipe.epochs * (IMAGES // recipe.batch_size)
    finally:
        torch.set_num_threads(threads)
    return total * (1 + BESIDE) / min(workers, max(1, len(jobs)))


def duration(seconds: float) -> str:
    """As people say it: "about 3 minutes"."""
    minutes = max(1, round(seconds / 60))
    if minutes < 100:
        return f"about {minutes} minute{'s' * (minutes > 1)}"
    return f"about {seconds / 3600:.1f} hours"


def _step_seconds(recipe: Recipe, steps: int = 5) -> float:
    """The fastest of a few training steps on noise."""
    device = "cuda" if torch.cuda.is_available() and recipe.machine.accelerator != "cpu" else "cpu"
    data = synthetic_data(recipe.data, recipe.batch_size)
    images, labels = (tensor.to(device) for tensor in data.train.read(list(range(recipe.batch_size)), None))
    card = describe(data, recipe)
    task = ClassificationTask(card.build().to(device), card, recipe, steps)
    optimizer = task.configure_optimizers()["optimizer"]
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(task(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU
        times.append(time.perf_counter() - began)
    return min(times)
