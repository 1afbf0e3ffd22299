"""From an image file of any size to what the network sees, uint8, every random number from the image's generator.

Letters: C channels, E edge in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from aaconv._checks import expect_one_of
from aaconv.data.images import fit_image, resized, upright

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of the training crop, of the image's area and as width / height
TRIES = 10


@dataclass(frozen=True)
class View:
    """How images are cut and resized.

    Args:
        size: E.
        channels: C, 1 or 3.
        crop_pct: Share of the resized image's edge that evaluation cuts out of its middle.
        crop: Of training: "inception", a random part (Szegedy et al. 2015, arXiv:1409.4842), or "resize", the middle.
        flip: Swap left and right of half of the training images.
        rand_augment: Magnitude of RandAugment on training images, 0 for none.
    """

    size: int
    channels: int = 3
    crop_pct: float = 0.875
    crop: str = "inception"
    flip: bool = True
    rand_augment: int = 0

    def __post_init__(self) -> None:
        expect_one_of("crop", self.crop, ("inception", "resize"))

    def __call__(self, image: Image.Image, generator: torch.Generator | None) -> Tensor:
        """A training view, or without a generator evaluation's: uint8 [C, E, E]."""
        return self.evaluation(image) if generator is None else self.training(image, generator)

    def evaluation(self, image: Image.Image) -> Tensor:
        """The middle: uint8 [C, E, E]."""
        return fit_image(image, self.channels, self.size, self.crop_pct)

    def training(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        """A random view: uint8 [C, E, E]."""
        if self.crop == "inception":
            whole = upright(image, self.channels)
            pixels = resized(whole, self.size, random_box(*whole.size, generator))
        else:
            pixels = self.evaluation(image)
        if self.flip and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(2)
        if self.rand_augment:
            from aaconv.data.augmentation import rand_augment

            pixels = rand_augment(pixels[None], [generator], self.rand_augment)[0]
        return pixels


def random_box(width: int, height: int, generator: torch.Generator) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a random part; where ten draws do not fit, the largest of the nearest shape."""
    for _ in range(TRIES):
        area, shape, x, y = torch.rand(4, generator=generator).tolist()
        pixels = width * height * (AREA[0] + area * (AREA[1] - AREA[0]))
        low, high = (math.log(edge) for edge in ASPECT)
        aspect = math.exp(low + shape * (high - low))
        wide, tall = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(x * (width - wide + 1)), int(y * (height - tall + 1))
            return left, top, left + wide, top + tall
    aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
    wide, tall = min(width, round(height * aspect)), min(height, round(width / aspect))
    x, y = (width - wide) / 2, (height - tall) / 2
    return x, y, x + wide, y + tall
