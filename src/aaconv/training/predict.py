"""Class probabilities of images.

Letters: n images, C channels, E edge in pixels, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from aaconv.data.images import read_image
from aaconv.training.checkpoint import ModelCard, load_checkpoint


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of one image."""

    path: str
    label: str
    probability: float


def predict_files(checkpoint: str | Path, paths: Sequence[str | Path], batch_size: int = 64) -> list[Prediction]:
    """Classify image files with a checkpoint of ``aaconv train`` or ``aaconv demo``.

    Raises:
        FileNotFoundError: The checkpoint or an image is missing.
        ValueError: The checkpoint or an image cannot be read.
    """
    model, card = load_checkpoint(checkpoint)
    predictions = []
    for start in tqdm(
        range(0, len(paths), batch_size), desc="predicting", disable=None if len(paths) > batch_size else True
    ):
        chunk = paths[start : start + batch_size]
        images = torch.stack([read_image(path, card.channels, card.edge, card.crop_pct) for path in chunk])
        best = probabilities(model, card, images).max(dim=1)
        for path, value, index in zip(chunk, best.values.tolist(), best.indices.tolist(), strict=True):
            predictions.append(Prediction(str(path), card.classes[index], value))
    return predictions


@torch.inference_mode()
def probabilities(model: nn.Module, card: ModelCard, images: Tensor, batch_size: int = 256) -> Tensor:
    """Softmax of the logits of uint8 images [n, C, E, E]: [n, c]."""
    parts = [model(card.normalize(chunk)).softmax(dim=1) for chunk in images.split(batch_size)]
    return torch.cat(parts)
