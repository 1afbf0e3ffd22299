"""From settings to a finished run: finds the data, checks everything, trains."""

from __future__ import annotations

from pathlib import Path

from aaconv.data.digit_pairs import digit_pairs
from aaconv.data.folder import load_folder
from aaconv.models import check_model_name
from aaconv.training.run import Settings, TrainedRun, train

EMBEDDED = "digits"


def train_on(settings: Settings, folder: str | Path, *, held_out: float = 0.2, skip_broken: bool = False) -> TrainedRun:
    """Train on ``settings.data``: a folder of classes, or "digits" for the embedded pairs.

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
    return train(data, settings, folder)
