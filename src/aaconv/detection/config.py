"""What a detector's run is made of, in plain values, as in ``aaconv.training.config``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from aaconv._checks import expect_int, expect_number
from aaconv.training.config import ModelConfig, RunConfig
from aaconv.training.recipes import DETECTORS

# Options that can leave parts untrained, with their defaults.
FIXES: dict[str, object] = {"norm": "batch", "trained_layers": 5}


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(ModelConfig):
    """The detector.

    Args:
        name: One that ``aaconv models '*retinanet*'`` lists.
        options: Arguments to change: position, norm, trained_layers, key_ratio, anchor_scales, ...
        backbone: Safetensors file of a classifier of the same body, such as a run's of ``aaconv train``; none trains
            from scratch, as the paper does.
        weights: Safetensors file of a detector of ours to start from, position tables and all; what gives the classes
            begins anew where they are others.
    """

    name: str = "aa_retinanet_resnet10_fpn"
    backbone: str | None = None
    weights: str | None = None

    DECIDED: ClassVar[tuple[str, ...]] = ("num_classes", "in_chans", "img_size")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone is not None and self.weights is not None:
            raise ValueError("model.backbone and model.weights are both given; give one of the two")
        fixed = [name for name, usual in FIXES.items() if self.options.get(name, usual) != usual]
        if fixed and self.backbone is None and self.weights is None:
            raise ValueError(
                f"model.options.{fixed[0]} must be {FIXES[fixed[0]]} without model.backbone or model.weights, got "
                f"{self.options[fixed[0]]}: what was never trained must not stay as it is"
            )


@dataclass(frozen=True, kw_only=True)
class BoxDataConfig:
    """Images with boxes.

    Args:
        name: scenes are embedded, made on first use; coco is a folder in COCO's format.
        path: The folder. The paths below start there.
        train_images: Folder of training images.
        train_boxes: Their annotations.
        val_images: Folder of images to evaluate on.
        val_boxes: Their annotations.
        size: Pixels of a training crop's edge, and of an image's longer side when it is evaluated.
        on_broken: What to do about images that are missing or cannot be read: fail, or skip them and count.
    """

    name: Literal["scenes", "coco"] = "scenes"
    path: str | None = None
    train_images: str = "train2017"
    train_boxes: str = "annotations/instances_train2017.json"
    val_images: str = "val2017"
    val_boxes: str = "annotations/instances_val2017.json"
    size: int = 128
    on_broken: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        expect_int("data.size", self.size)


@dataclass(frozen=True, kw_only=True)
class BoxAugmentConfig:
    """What happens to training images: scale jitter, a square crop, mirroring.

    Args:
        smallest: Least factor of the jitter, of a longer side of ``data.size``.
        largest: Largest factor.
        flip: Left and right swapped in half of the images.
    """

    smallest: float = 1.0
    largest: float = 1.0
    flip: bool = False

    def __post_init__(self) -> None:
        expect_number("augment.smallest", self.smallest, zero=False)
        expect_number("augment.largest", self.largest, zero=False)
        if self.smallest > self.largest:
            raise ValueError(f"augment.smallest must be at most augment.largest, got {self.smallest} > {self.largest}")


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(RunConfig):
    """A run of detection.

    Args:
        model: The detector.
        data: Images with boxes.
        augment: What happens to training images.
    """

    PREFIX: ClassVar[str] = DETECTORS

    model: DetectorConfig = field(default_factory=DetectorConfig)
    data: BoxDataConfig = field(default_factory=BoxDataConfig)
    augment: BoxAugmentConfig = field(default_factory=BoxAugmentConfig)
    batch_size: int = 16
