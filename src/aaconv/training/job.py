"""From settings to a finished run: finds the data, checks everything, trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aaconv.data.digit_pairs import digit_pairs
from aaconv.data.folder import load_folder
from aaconv.models import check_model_name
from aaconv.training.run import Settings, TrainedRun, train

EMBEDDED = "digits"


def train_on(
    settings: Settings,
    folder: str | Path,
    *,
    batch_size: int | None = None,
    held_out: float = 0.2,
    skip_broken: bool = False,
) -> TrainedRun:
    """Train on ``settings.data``: a folder of classes, or "digits" for the embedded pairs.

    ``batch_size`` replaces that of the settings; None takes theirs, or all training images where those are fewer.

    Raises:
        FileNotFoundError: No such data folder.
        ValueError: Unknown model, unusable images or settings; before any training.
    """
    check_model_name(settings.model)
    if settings.data == EMBEDDED:
        data = digit_pairs(seed=settings.seed, edge=settings.edge)
    else:
        data = load_folder(
            settings.data, edge=settings.edge, held_out=held_out, seed=settings.seed, skip_broken=skip_broken
        )
    size = min(settings.batch_size, len(data.train)) if batch_size is None else batch_size
    return train(data, replace(settings, batch_size=size), folder)
