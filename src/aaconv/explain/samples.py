"""Images to look at without having any: those that a network's own test data or the installed packages hold."""

from __future__ import annotations

from functools import cache

from PIL import Image

from aaconv.data import clutter, digit_pairs
from aaconv.data.scenes import open_photograph, scene
from aaconv.training.checkpoint import ModelCard

COMPOSED = {
    "digits": (digit_pairs.compose_pairs, digit_pairs.CLASSES),
    "clutter": (clutter.compose_clutter, clutter.CLASSES),
}
COUNT = 8  # the first ones, not chosen
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "china.jpg", "flower.jpg")
Samples = dict[str, Image.Image]  # by what they show


def samples(card: ModelCard) -> Samples:
    """Test images of the embedded data that the network was trained on, else photographs."""
    return _samples(card.data)


@cache
def _samples(data: str) -> Samples:
    if data in COMPOSED:
        compose, classes = COMPOSED[data]
        canvases = compose("test", COUNT, seed=0)
        rows = zip(canvases.images[:, 0].numpy(), canvases.labels.tolist(), strict=True)
        return {f"canvas {i}, {classes[label]}": Image.fromarray(one) for i, (one, label) in enumerate(rows, start=1)}
    if data == "scenes":
        return {f"scene {index + 1}": Image.fromarray(scene("test", index).pixels) for index in range(COUNT)}
    return {name.removesuffix(".jpg"): open_photograph(name) for name in PHOTOGRAPHS}
