"""The parts of a detector: torchvision's RetinaNet around a body that gives maps, ours or anybody's.

Letters: B images, C channels of a map, H W an image in pixels, A anchors at a cell, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from aaconv._checks import expect_divisible, expect_int, expect_number, expect_ratio
from aaconv.models.placement import position_tables

OPTIONS = (  # of torchvision's detector, which takes any other in silence
    "min_size",
    "max_size",
    "image_mean",
    "image_std",
    "score_thresh",
    "nms_thresh",
    "detections_per_img",
    "fg_iou_thresh",
    "bg_iou_thresh",
    "topk_candidates",
)


class Pyramid(nn.Module):
    """A body and its feature pyramid: [B, 3, H, W] -> maps of ``out_channels``, the finest first.

    Args:
        body: Gives a dictionary or a list of maps, each half as high and wide as the one before.
        in_channels: C of each.
        out_channels: C of each map of the pyramid.
        coarse_maps: Whether two more maps follow, P6 and P7.
    """

    def __init__(self, body: nn.Module, in_channels: Sequence[int], out_channels: int, coarse_maps: bool):
        super().__init__()
        self.body, self.out_channels = body, out_channels
        extra = LastLevelP6P7(out_channels, out_channels) if coarse_maps else None
        self.fpn = FeaturePyramidNetwork(list(in_channels), out_channels, extra)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body(x)
        return self.fpn({str(i): m for i, m in enumerate(maps.values() if isinstance(maps, dict) else maps)})


class Anchors(AnchorGenerator):
    """In float32, whatever the maps are: bfloat16 has steps of 4 pixels from 512 on."""

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        return super().forward(image_list, [_full(m[:1, :1]) for m in feature_maps])


class Head(RetinaNetHead):
    """Results in float32, in which losses, boxes and scores are computed."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: _full(value) for name, value in super().forward(x).items()}


class Resize(GeneralizedRCNNTransform):
    """torchvision's normalising and resizing, but that the short side of a thin image stays a pixel."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        height, width = image.shape[-2:]
        scale = min(min(self.min_size) / min(height, width), self.max_size / max(height, width))
        if min(height, width) * scale >= 1:
            return super().resize(image, target)
        size = [max(1, int(edge * scale)) for edge in (height, width)]
        if target is not None:
            ratio = torch.tensor([size[1] / width, size[0] / height] * 2, device=image.device)
            target = {**target, "boxes": target["boxes"] * ratio}
        return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0], target


class Detector(RetinaNet):
    """torchvision's RetinaNet: a list of images [3, H, W] in 0..1, each of any size -> boxes, scores, labels of each.

    In training mode it takes targets too, a dictionary with ``boxes`` [k, 4] (x1, y1, x2, y2 in pixels) and ``labels``
    [k] (0 to c - 1) for each image, and returns the losses "classification" and "bbox_regression".

    Source: Lin et al. 2017, arXiv:1708.02002, as torchvision has it. Bello et al. 2019, section 4.3, put augmented
    ResNets into it.
    """

    num_classes: int
    default_cfg: dict[str, Any]  # as timm's networks have it: the size that it was made for

    def forward(self, images: Any, targets: Any = None) -> Any:
        """See the class.

        Raises:
            TypeError, ValueError: ``images`` is empty, or holds what is no float image in colour.
        """
        if len(images) == 0:
            raise ValueError("images must be at least one, got none")
        for image in images:
            if not isinstance(image, Tensor) or image.dim() != 3 or len(image) != 3 or 0 in image.shape:
                got = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
                raise ValueError(f"images must be a list of tensors [3, H, W], got {got} in it")
            if not image.is_floating_point():
                raise TypeError(f"images must be floats in 0..1, got {image.dtype}; divide uint8 by 255")
        return super().forward(images, targets)

    def dense_outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What is computed before boxes are chosen, from normalised images [B, 3, H, W].

        Returns the logits [B, anchors, c] and the boxes relative to their anchors [B, anchors, 4].
        """
        found = self.head(list(self.backbone(images).values()))
        return found["cls_logits"], found["bbox_regression"]

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile what is computed for every image alike; choosing boxes depends on what is in it."""
        self.backbone.compile(*args, **options)
        self.head.compile(*args, **options)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone."""
        return position_tables(self)


def retinanet(
    body: nn.Module,
    in_channels: Sequence[int] | None = None,
    *,
    num_classes: int,
    pyramid_channels: int = 256,
    coarse_maps: bool = True,
    smallest_anchor: float = 32,
    anchor_scales: int = 3,
    head_norm: bool = True,
    img_size: int = 640,
    **options: Any,
) -> Detector:
    """A detector around any body that gives maps of 1/8, 1/16 and 1/32 of the image, or of other sizes.

    Args:
        body: Such as ``timm.create_model(..., features_only=True, out_indices=(2, 3, 4))``, before or after
            ``aaconv.augment``.
        in_channels: Channels of its maps; None takes them from the ``feature_info`` of timm's.
        num_classes: c.
        pyramid_channels, coarse_maps: See ``Pyramid``.
        smallest_anchor: Pixels of the smallest anchors on the first map.
        anchor_scales: Sizes of anchors within a factor of 2; each comes in three shapes, so that A is three times this.
        head_norm: Group norm in the heads. Training from scratch needs it; without, the heads are those of RetinaNet's
            authors.
        img_size: Pixels that the longer side of an image is resized to, unless ``min_size`` and ``max_size`` say more.
        options: torchvision's, see ``OPTIONS``; ``detections_per_img`` is 100 here, which is what COCO counts.
    """
    for name, number in (("num_classes", num_classes), ("anchor_scales", anchor_scales), ("img_size", img_size)):
        expect_int(name, number)
    expect_number("smallest_anchor", smallest_anchor, zero=False)
    if head_norm:
        expect_divisible("pyramid_channels", expect_int("pyramid_channels", pyramid_channels), "the norm's group", 8)
    _check_options(options)
    if in_channels is None:
        if not hasattr(getattr(body, "feature_info", None), "channels"):
            raise ValueError(
                "in_channels must list the channels of the body's maps, got None and a body that does not tell them; "
                "timm's do if they are created with features_only=True"
            )
        in_channels = body.feature_info.channels()  # type: ignore[union-attr, operator]
    backbone = Pyramid(body, in_channels, pyramid_channels, coarse_maps)
    levels = len(in_channels) + 2 * coarse_maps
    anchors = _anchors(levels, smallest_anchor, anchor_scales)
    norm = partial(nn.GroupNorm, pyramid_channels // 8) if head_norm else None
    head = Head(pyramid_channels, 3 * anchor_scales, num_classes, norm)
    if head_norm:
        _spread(head)
    usual = {"min_size": img_size, "max_size": img_size, "detections_per_img": 100}
    model = Detector(backbone, num_classes, anchor_generator=anchors, head=head, **{**usual, **options})
    theirs = model.transform
    model.transform = Resize(theirs.min_size, theirs.max_size, theirs.image_mean, theirs.image_std)
    model.num_classes = num_classes
    model.default_cfg = {"input_size": (3, img_size, img_size)}
    return model


def _full(value: Tensor) -> Tensor:
    """At least float32."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _check_options(options: dict[str, Any]) -> None:
    """Raise TypeError or ValueError for what torchvision would take and stumble over later."""
    strange = sorted(set(options) - set(OPTIONS))
    if strange:
        raise TypeError(f"unknown options {', '.join(strange)} of a detector; there are {', '.join(OPTIONS)}")
    for name, value in options.items():
        if name.endswith("_thresh"):
            expect_ratio(name, value, zero=True)
        elif name in ("detections_per_img", "topk_candidates", "max_size"):
            expect_int(name, value)
        elif name == "min_size":
            for size in value if isinstance(value, (tuple, list)) else (value,):
                expect_int(name, size)


def _spread(head: RetinaNetHead) -> None:
    """Weights of the size that is usual between norms: of RetinaNet's 0.01 each step would change too large a share."""
    for branch in (head.classification_head, head.regression_head):
        for layer in branch.conv.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _anchors(levels: int, smallest: float, scales: int) -> Anchors:
    sizes = tuple(tuple(smallest * 2 ** (level + i / scales) for i in range(scales)) for level in range(levels))
    return Anchors(sizes, ((0.5, 1.0, 2.0),) * levels)
