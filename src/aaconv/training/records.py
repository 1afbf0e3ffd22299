"""What a run folder says of itself: configuration, environment, and a model card of measured facts."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from aaconv import __version__
from aaconv._files import write_text
from aaconv.training.checkpoint import ModelCard
from aaconv.training.config import RunConfig, changes
from aaconv.training.recipes import dump_recipe, read_yaml
from aaconv.training.task import Task

CONFIG, ENVIRONMENT, CARD = "recipe.yaml", "environment.json", "README.md"
PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "numpy", "numba", "triton", "pillow", "scikit-learn")


def claim(folder: Path, recipe: RunConfig, fingerprint: str, world: int, *, anyway: bool) -> None:
    """Write configuration and environment into a new folder; of one that holds a run, check that it is this run.

    Raises:
        ValueError: The run there has another configuration, other images or another number of devices.
    """
    held = _read(folder / ENVIRONMENT)
    if (folder / CONFIG).exists() and not anyway:
        differences = changes(read_yaml(folder / CONFIG), recipe)
        if held.get("data", fingerprint) != fingerprint:
            differences.append("the images")
        if held.get("devices", world) != world:
            differences.append(f"devices {held['devices']} -> {world}")
        if differences:
            raise ValueError(
                f"{folder} holds a run with other settings ({', '.join(differences)}); use another --out folder, or "
                "--resume-anyway to go on with these, not to the bit"
            )
    starts = [*held.get("starts", []), _start()]
    write_text(folder / CONFIG, dump_recipe(recipe))
    record = {**environment(), "data": fingerprint, "devices": world, "starts": starts}
    write_text(folder / ENVIRONMENT, json.dumps(record, indent=2))


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "aaconv": __version__,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def write_card(
    folder: Path,
    recipe: RunConfig,
    card: ModelCard,
    history: list[dict[str, float]],
    facts: dict[str, Any],
    task: Task | type[Task],
) -> None:
    """The run's README.md, out of what was measured.

    ``facts``: train and val images, skipped files, parameters, gflops, and notes about the images.
    """
    record = _read(folder / ENVIRONMENT)
    last, best = history[-1], max(history, key=lambda row: row[f"val_{task.SCORE}"])
    hardware = ", ".join(dict.fromkeys(record["gpus"])) or f"{record['processor']}, {record['threads']} threads"
    skipped = f"; {facts['skipped']} unreadable ones left out" if facts["skipped"] else ""
    lines = [
        f"# {card.model} on {card.data}",
        "",
        f"Trained with aaconv {record['aaconv']}; every figure was measured in this run (seed {recipe.seed}).",
        "",
        f"| | {' | '.join(task.COLUMNS)} | epoch |",
        f"|---|{'---|' * len(task.COLUMNS)}---|",
        *(
            f"| {name} | {' | '.join(format(row[key], form) for key, form in task.COLUMNS.values())} "
            f"| {row['epoch']:.0f} |"
            for name, row in (("`model.safetensors`, last epoch", last), ("`best.safetensors`", best))
        ),
        "",
        "The best epoch was chosen by the images it is evaluated on; to compare with others, take the last.",
        "",
        f"* Network: `{card.model}`, options {json.dumps(card.options)}; {facts['parameters']:,} parameters, "
        f"{facts['gflops']:.4f} GFLOPs an image of {card.edge}x{card.edge} pixels.",
        f"* Images: {facts['train']:,} for training, {facts['val']} for evaluation, {len(card.classes)} "
        f"classes{skipped}{facts.get('notes', '')}; fingerprint `{record['data']}`.",
        f"* {recipe.epochs} epochs, {last['step']:.0f} optimiser steps of {recipe.batch_size} images, "
        f"{sum(row['seconds'] for row in history):.0f} s on {record['devices']} x {hardware}.",
        f"* {' '.join(f'{name} {number}' for name, number in record['packages'].items())}, Python {record['python']}.",
        "",
        "Commands of the run, in order:",
        "",
        "```",
        *(f"{start['time']}  {start['command']}" for start in record["starts"]),
        "```",
        "",
        f"`{CONFIG}` holds the whole configuration, `metrics.csv` every epoch, `{ENVIRONMENT}` the versions.",
        "",
    ]
    write_text(folder / CARD, "\n".join(lines))


def _start() -> dict[str, str]:
    name = Path(sys.argv[0]).name
    started = ["python", "-m", "aaconv"] if name == "__main__.py" else [name]
    command = shlex.join([*started, *sys.argv[1:]])
    return {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": command}


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {**held, "data": held["data"], "devices": held["devices"]}  # what a later start compares
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); use another --out folder") from error


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
