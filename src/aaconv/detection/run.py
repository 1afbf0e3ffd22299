"""Detection runs: from a recipe and its images with boxes to a trained detector."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from aaconv.data.files import MEAN, STD
from aaconv.data.splits import Draw
from aaconv.detection.config import DetectionRecipe
from aaconv.detection.loaders import EpochBoxes, whole_loader
from aaconv.detection.sources import BoxData, load_boxes, synthetic_boxes
from aaconv.detection.task import DetectionTask
from aaconv.models import check_model_name, is_detector, list_models
from aaconv.models.complexity import measure_complexity
from aaconv.training.checkpoint import ModelCard, read_weights
from aaconv.training.fit import Job, TrainedRun, fit, is_first
from aaconv.training.loaders import EpochLoader, EpochOrder, Plan, Share, ordered_loader


def train(
    recipe: DetectionRecipe,
    folder: str | Path,
    *,
    data: BoxData | None = None,
    title: str | None = "training",
    anyway: bool = False,
) -> TrainedRun:
    """Train to the end, from the last checkpoint where ``folder`` holds one.

    The arguments and what is raised are those of ``aaconv.training.run.train``; None for ``data`` loads what the recipe
    names.
    """
    expect_detector(recipe.model.name)
    data = load_boxes(recipe) if data is None else data
    if data.notes() and title is not None and is_first():
        print(f"{title}: {data.notes()}", file=sys.stderr)
    return fit(DetectionJob(recipe, data), folder, title=title, anyway=anyway)


def dry_run(recipe: DetectionRecipe) -> str:
    """Build everything and train for one step of a few synthetic images; returns a line that says what was built."""
    expect_detector(recipe.model.name)
    size = 2 * recipe.accumulate
    machine = replace(recipe.machine, devices=1, nodes=1, workers=0, loggers=(), accelerator="cpu", compile=False)
    if machine.precision == "16":
        machine = replace(machine, precision="bf16")  # what CPUs have
    small = replace(recipe, epochs=1, batch_size=size, machine=machine)
    with tempfile.TemporaryDirectory() as folder:
        data = synthetic_boxes(recipe.data, size, Path(folder))
        run = train(small, Path(folder) / "run", data=data, title=None)
    complexity = measure_complexity(run.model, 3, recipe.data.size)
    return (
        f"{recipe.model.name}: {complexity.parameters:,} parameters, {complexity.flops / 1e9:.2f} GFLOPs at "
        f"{recipe.data.size} pixels, {len(run.card.classes)} classes; one step on synthetic images works"
    )


class DetectionJob(Job[DetectionRecipe]):
    """A recipe with its images with boxes."""

    def __init__(self, recipe: DetectionRecipe, data: BoxData):
        self.recipe, self.data = recipe, data
        self.card = ModelCard(
            recipe.model.name,
            data.categories.classes,
            3,
            recipe.data.size,
            MEAN,
            STD,
            options=dict(recipe.model.options),
            data=recipe.data.name,
            category_ids=data.categories.category_ids,
        )

    @property
    def count(self) -> int:
        return len(self.data.train)

    def fingerprint(self) -> str:
        return self.data.fingerprint()

    def build(self) -> nn.Module:
        model: Any = self.card.build()
        chosen = self.recipe.model
        if chosen.backbone is not None:
            load_body(model.backbone.body, chosen.backbone)
        if chosen.weights is not None:
            load_weights(model, chosen.weights)
        return model

    def task(self, model: nn.Module, steps: int) -> DetectionTask:
        return DetectionTask(model, self.recipe, steps, self.data.val.coco)

    def train_loader(self, plan: Plan, draw: Draw, share: Share, start: int) -> EpochLoader:
        order = EpochOrder(plan, draw, share, start)
        return ordered_loader(EpochBoxes(self.data.train, draw), order, self.recipe.machine.workers)

    def val_loader(self, plan: Plan, share: Share) -> DataLoader[Any]:
        return whole_loader(self.data.val, plan.local, share, self.recipe.machine.workers)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        complexity = measure_complexity(model, 3, self.card.edge)
        counts = {"train": self.count, "val": f"{len(self.data.val):,}", "skipped": self.data.skipped}
        notes = f"; {self.data.notes()}" if self.data.notes() else ""
        return {**counts, "parameters": complexity.parameters, "gflops": complexity.flops / 1e9, "notes": notes}


def load_body(body: nn.Module, path: str | Path) -> None:
    """Give a detector's body the weights of a classifier of the same kind; position tables are fitted to their size.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No safetensors file, or of another network.
    """
    weights, _ = read_weights(path)
    own = body.state_dict()
    missing = [name for name in own if name not in weights]
    classifier = ("fc.", "head.", "classifier.")
    strange = [n for n in weights if n not in own and not n.startswith(classifier) and not n.endswith("_tracked")]
    if missing or strange:
        what = f"no {missing[0]!r}" if missing else f"{strange[0]!r}, which the body has not"
        raise ValueError(f"model.backbone must be a classifier of the detector's body; {path} has {what}")
    try:
        body.load_state_dict({name: weights[name] for name in own})
    except RuntimeError as error:
        raise ValueError(f"model.backbone {path} does not fit: {' '.join(str(error).split())}") from error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Start from a detector's weights; what gives the classes stays fresh where it has another shape.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No safetensors file, or of another detector.
    """
    weights, _ = read_weights(path)
    own = model.state_dict()
    fresh = {n for n in own if ".cls_logits." in n and n in weights and weights[n].shape != own[n].shape}
    try:
        model.load_state_dict({n: own[n] if n in fresh else value for n, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"model.weights {path} does not fit: {' '.join(str(error).split())}") from error


def expect_detector(name: str) -> None:
    """Raise ValueError unless the network ``name`` is a detector."""
    check_model_name(name)
    if not is_detector(name):
        raise ValueError(
            f"model.name must be a detector, got {name}; there are {', '.join(list_models('*retinanet*'))}"
        )
