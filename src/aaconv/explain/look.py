"""One image through a trained network: what the network was given, what it answered, and where it looked.

Letters: C channels of an image (1 or 3), Y X its height and width in pixels, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from aaconv.data.images import fit_image, middle_of, printable, upright
from aaconv.explain.activation import class_activation
from aaconv.explain.record import Recording, record
from aaconv.models import is_detector
from aaconv.training.checkpoint import ModelCard, load_checkpoint

ANSWERS = 10  # classes, or boxes of a detector, that are told
LEAST_SCORE = 0.3  # of a box
Share = tuple[float, float]  # (x, y) of a picture, each in 0..1
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Answer:
    """A class and its probability; of a detector also its box, x1 y1 x2 y2 in pixels of the picture."""

    label: str
    probability: float
    box: tuple[float, ...] = ()


@dataclass(frozen=True)
class Look:
    """What a network saw, said and recorded of one image."""

    network: str
    picture: Tensor  # uint8 [C, Y, X], as the network was given it: cut, resized, padded
    covers: Box  # left, top, right, bottom in pixels of the image that the picture shows
    answers: tuple[Answer, ...]  # likeliest first
    recording: Recording
    layers: tuple[str, ...]  # to show

    def share_of(self, x: float, y: float) -> Share:
        """Where pixel (x, y) of the image lies in the picture.

        Raises:
            ValueError: The network does not see it.
        """
        left, top, right, bottom = self.covers
        if not (left <= x < right and top <= y < bottom):
            raise ValueError(
                f"query must lie in what {self.network} sees of the image, x from {left:g} to {right:g} and y from "
                f"{top:g} to {bottom:g}, got {x:g},{y:g}"
            )
        return (x - left) / (right - left), (y - top) / (bottom - top)

    @property
    def size(self) -> tuple[int, int]:
        """(Y, X) of the picture, over which every layer's attention map lies."""
        height, width = self.picture.shape[-2:]
        return height, width


Seen = tuple[Tensor, Box, tuple[Answer, ...]]
LOOKING = Lock()  # a recording would take what another thread's image gives, and torch's stance is of all threads


class Network:
    """A trained network that looks at images, one at a time and from several threads.

    Args:
        title: How it is called beside others.
        model: In evaluation mode, with an attention layer at least.
        card: Of its checkpoint.
        patterns: Shell patterns of the attention layers to show.

    Raises:
        ValueError: The network has no attention layer, or none that fits the patterns.
    """

    def __init__(self, title: str, model: nn.Module, card: ModelCard, patterns: Sequence[str] = ("*",)):
        every = Recording(model).layers
        if not every:
            raise ValueError(f"{title} ({card.model}) has no attention layer to look into")
        self.title, self.model, self.card = title, model, card
        self.layers = tuple(name for name in every if any(fnmatchcase(name, pattern) for pattern in patterns))
        if not self.layers:
            raise ValueError(f"layer must fit one of {', '.join(every)}, got {' '.join(patterns)}")
        self.finds_boxes = is_detector(card.model)

    @classmethod
    def load(cls, checkpoint: str | Path, patterns: Sequence[str] = ("*",)) -> Network:
        """From a checkpoint of ``aaconv train`` or ``aaconv detect train``, or the name of one in the package.

        Raises:
            FileNotFoundError: No such checkpoint.
            ValueError: Damaged, or without an attention layer that fits the patterns.
        """
        model, card = load_checkpoint(checkpoint, detector=None)
        return cls(title_of(checkpoint), model, card, patterns)

    def look(self, image: Image.Image) -> Look:
        """Look at an opened image, as prediction does.

        Raises:
            OSError, SyntaxError, ValueError: Pillow cannot read its pixels.
        """
        see = self._boxes if self.finds_boxes else self._classes
        whole = upright(image, 3 if self.finds_boxes else self.card.channels)
        with LOOKING, torch.no_grad(), record(self.model) as recording:
            picture, covers, answers = see(whole)
        shown = tuple(name for name in self.layers if name in recording.calls)
        return Look(self.title, picture, covers, answers, recording, shown)

    def evidence(self, look: Look) -> Tensor | None:
        """Class activation [H, W] for the likeliest class of what was looked at; None of a detector."""
        if self.finds_boxes:
            return None
        with LOOKING:
            return class_activation(self.model, self.card.normalize(look.picture[None]))[0]

    def _classes(self, image: Image.Image) -> Seen:
        pixels = fit_image(image, self.card.channels, self.card.edge, self.card.crop_pct)
        chances = self.model(self.card.normalize(pixels[None]))[0].softmax(dim=0)
        best = chances.topk(min(ANSWERS, len(chances)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers = tuple(Answer(self.card.classes[index], chance) for index, chance in pairs)
        return pixels, middle_of(image.size, self.card.edge, self.card.crop_pct), answers

    def _boxes(self, image: Image.Image) -> Seen:
        pixels = pil_to_tensor(image).float() / 255
        found = self.model([pixels])[0]
        picture, (height, width) = _as_given(self.model, pixels)
        across, down = width / image.width, height / image.height
        rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        answers = tuple(
            Answer(self.card.classes[label], score, (x1 * across, y1 * down, x2 * across, y2 * down))
            for label, score, (x1, y1, x2, y2) in rows
            if score >= LEAST_SCORE
        )
        return picture, (0, 0, picture.shape[2] / across, picture.shape[1] / down), answers[:ANSWERS]


def _as_given(model: Any, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The image as the detector's body gets it, resized and padded: uint8 [3, Y, X]; its size without the padding."""
    batch, _ = model.transform([image])
    shape = model.transform
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (shape.image_mean, shape.image_std))
    pixels = (batch.tensors[0] * std + mean).mul(255).round().clamp(0, 255)
    return pixels.to(torch.uint8), batch.image_sizes[0]


def title_of(checkpoint: str | Path) -> str:
    """The file's name, or its run's where all runs call it so."""
    path = Path(checkpoint)
    alike = path.stem in ("model", "best")
    return printable(path.absolute().parent.name if alike else path.stem)
