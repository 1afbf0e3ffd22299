"""Images with boxes as training and evaluation see them, every random number from the image's own generator.

Boxes are of the pixels as a file stores them, as COCO's are; so a note of the camera (EXIF) to turn them is not heeded.

Letters: S edge of a training image, H W of an image as stored, k boxes; boxes are x1 y1 x2 y2 in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from aaconv._checks import expect_int, expect_number, expect_one_of
from aaconv.data.coco import CocoSet
from aaconv.data.files import MEAN, LeftOut
from aaconv.data.images import decode, upright
from aaconv.data.splits import Draw

FILL = tuple(round(255 * mean) for mean in MEAN)  # the mean colour of photographs, with which detectors fill up too
SEEN = 0.25  # least share of a box that a crop must keep for it to be asked for


@dataclass(frozen=True)
class BoxView:
    """How images are resized and cut.

    Args:
        size: S.
        scale: Least and largest factor of scale jitter (Ghiasi et al. 2021, arXiv:2012.07177): the longer side becomes
            S times one that is drawn, evenly. What is larger than S x S is cut at random, what is smaller is filled up
            with grey on the right and below.
        flip: Swap left and right of half of the training images.
    """

    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False

    def __post_init__(self) -> None:
        expect_int("size", self.size)
        low, high = (expect_number("scale", factor, zero=False) for factor in self.scale)
        if low > high:
            raise ValueError(f"scale must be the least factor and the largest, got scale={self.scale}")

    def evaluation(self, image: Image.Image) -> Tensor:
        """The whole image in its own size: uint8 [3, H, W]."""
        from torchvision.transforms.v2 import functional as F

        return F.pil_to_tensor(upright(image, 3, turn=False))

    def training(
        self, image: Image.Image, boxes: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A random view: uint8 [3, S, S], boxes float32 [k', 4] that end at its edges, and labels [k'].

        A box of which less than a quarter is still seen is left out, and one less than a pixel wide or high.

        Args:
            image: H x W.
            boxes: float32 [k, 4].
            labels: [k].
            generator: Of the image in this epoch.
        """
        from torchvision.transforms.v2 import functional as F
        from torchvision.tv_tensors import BoundingBoxes

        jitter, down, across, mirror = torch.rand(4, generator=generator).tolist()
        pixels = self.evaluation(image)
        size = self._resized(pixels.shape[1], pixels.shape[2], jitter)
        top, left = int(down * (self._surplus(size[0]) + 1)), int(across * (self._surplus(size[1]) + 1))
        both = [pixels, BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(pixels.shape[1:]))]
        both = [F.resize(part, list(size), antialias=True) for part in both]
        whole = _areas(both[1])
        spare = [max(self.size - edge, 0) for edge in size]
        both[0] = F.pad(both[0], [0, 0, spare[1], spare[0]], fill=list(FILL))
        both = [F.crop(part, top, left, self.size, self.size) for part in both]
        if self.flip and mirror < 0.5:
            both = [F.horizontal_flip(part) for part in both]
        corners = both[1].as_subclass(Tensor)
        kept = (_areas(corners) >= SEEN * whole) & (corners[:, 2:] - corners[:, :2] >= 1).all(dim=1)
        return both[0].contiguous(), corners[kept], labels[kept]

    def _resized(self, height: int, width: int, jitter: float) -> tuple[int, int]:
        """Height and width after scale jitter."""
        low, high = self.scale
        factor = (low + jitter * (high - low)) * self.size / max(height, width)
        return max(round(factor * height), 1), max(round(factor * width), 1)

    def _surplus(self, edge: int) -> int:
        """How many pixels must be cut off an edge."""
        return max(edge - self.size, 0)


@dataclass(frozen=True)
class BoxImages:
    """Image files with boxes.

    Args:
        coco: Which.
        view: How they become tensors.
        on_broken: "fail", or "skip" to train on the next readable image instead of one that is broken.
    """

    coco: CocoSet
    view: BoxView
    on_broken: str = "fail"
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)

    def __post_init__(self) -> None:
        expect_one_of("on_broken", self.on_broken, ("fail", "skip"))

    def __len__(self) -> int:
        return len(self.coco)

    def read(self, index: int, draw: Draw | None) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [3, h, w], boxes float32 [k, 4], labels [k]; ``draw`` None asks for the whole image, in its own size.

        Raises:
            ImageReadError: The file is broken or not of the size that the annotations say, and this is evaluation or
                ``on_broken`` is "fail"; or all files are.
            FileNotFoundError: The same of a file that is gone.
        """
        if draw is None or self.on_broken == "fail":
            return self._read(index, None if draw is None else draw.generator(index))
        return self.left_out.first_readable(
            index, self.coco.names, lambda number: self._read(number, draw.generator(index))
        )

    def fingerprint(self) -> str:
        """The set's."""
        return self.coco.fingerprint()

    def _read(self, index: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        boxes, labels = self.coco.target(index)
        height, width = self.coco.sizes[index].tolist()

        def view(image: Image.Image) -> tuple[Tensor, Tensor, Tensor]:
            if (image.height, image.width) != (height, width):
                raise ValueError(f"{image.width}x{image.height} pixels, its boxes are of {width}x{height}")
            if generator is None:
                return self.view.evaluation(image), boxes, labels
            return self.view.training(image, boxes, labels, generator)

        return decode(self.coco.root / self.coco.names[index], view)


def _areas(boxes: Tensor) -> Tensor:
    """[k, 4] -> [k]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
