"""RetinaNet on attention-augmented backbones: torchvision's detector around our networks, or around anybody's.

Letters: B images, C channels of a map, H W an image in pixels, A anchors at a cell, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from aaconv._checks import expect_int, expect_one_of
from aaconv.models import resnet
from aaconv.models.placement import Shares, position_tables

MAPS = ("layer2", "layer3", "layer4")  # of the body, that the pyramid is built on
NORMS = ("batch", "frozen")
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


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One detector."""

    body: resnet.Spec
    pyramid_channels: int = 256  # of every map of the pyramid and of the heads
    coarse_maps: bool = True  # two more maps, P6 and P7, from the last
    smallest_anchor: int = 32  # pixels, on the first map; twice as many on each further one
    img_size: int = 640  # that the position tables are built for, and that the longer side of an image is resized to


_R50 = resnet.Spec(layers=(3, 4, 6, 3))
_R101 = resnet.Spec(layers=(3, 4, 23, 3))
_PAPER = Shares()
# For images of about 128 pixels. Both have the same number of parameters within 1%.
_SMALL = Spec(
    body=resnet.Spec(layers=(1, 1, 1, 1), block="basic", widths=(32, 48, 80, 96)),
    pyramid_channels=64,
    coarse_maps=False,
    smallest_anchor=12,
    img_size=128,
)
_SMALL_AA = replace(_SMALL.body, widths=(32, 48, 80, 96), shares=Shares(key_ratio=0.25, value_ratio=0.25, num_heads=4))
SPECS = {
    "retinanet_resnet50_fpn": Spec(body=_R50),
    "se_retinanet_resnet50_fpn": Spec(body=replace(_R50, channel_attention="se")),
    "aa_retinanet_resnet50_fpn": Spec(body=replace(_R50, shares=_PAPER)),
    "retinanet_resnet101_fpn": Spec(body=_R101),
    "se_retinanet_resnet101_fpn": Spec(body=replace(_R101, channel_attention="se")),
    "aa_retinanet_resnet101_fpn": Spec(body=replace(_R101, shares=_PAPER)),
    "retinanet_resnet10_fpn": _SMALL,
    "aa_retinanet_resnet10_fpn": replace(_SMALL, body=_SMALL_AA),
}


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


class Detector(RetinaNet):
    """torchvision's RetinaNet: a list of images [3, H, W] in 0..1, each of any size -> boxes, scores, labels of each.

    In training mode it takes targets too, a dictionary with ``boxes`` [k, 4] (x1, y1, x2, y2 in pixels) and ``labels``
    [k] (0 to c - 1) for each image, and returns the losses "classification" and "bbox_regression".

    Source: Lin et al. 2017, arXiv:1708.02002, as torchvision has it. Bello et al. 2019, section 4.3, put augmented
    ResNets into it.
    """

    num_classes: int
    default_cfg: dict[str, Any]  # as timm's networks have it: the size that it was made for

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
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
    strange = sorted(set(options) - set(OPTIONS))
    if strange:
        raise TypeError(f"unknown options {', '.join(strange)} of a detector; there are {', '.join(OPTIONS)}")
    expect_int("num_classes", num_classes)
    expect_int("anchor_scales", anchor_scales)
    expect_int("img_size", img_size)
    if in_channels is None:
        if not hasattr(body, "feature_info"):
            raise ValueError(
                "in_channels must list the channels of the body's maps, got None and a body that is not timm's"
            )
        in_channels = body.feature_info.channels()  # type: ignore[union-attr, operator]
    backbone = Pyramid(body, in_channels, pyramid_channels, coarse_maps)
    levels = len(in_channels) + 2 * coarse_maps
    anchors = _anchors(levels, smallest_anchor, anchor_scales)
    norm = partial(nn.GroupNorm, max(1, pyramid_channels // 8)) if head_norm else None
    head = RetinaNetHead(pyramid_channels, 3 * anchor_scales, num_classes, norm)
    if head_norm:
        _spread(head)
    usual = {"min_size": img_size, "max_size": img_size, "detections_per_img": 100}
    model = Detector(backbone, num_classes, anchor_generator=anchors, head=head, **{**usual, **options})
    model.num_classes = num_classes
    model.default_cfg = {"input_size": (3, img_size, img_size)}
    return model


def _spread(head: RetinaNetHead) -> None:
    """Weights of the size that is usual between norms: of RetinaNet's 0.01 each step would change too large a share."""
    for branch in (head.classification_head, head.regression_head):
        for layer in branch.conv.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _anchors(levels: int, smallest: float, scales: int) -> AnchorGenerator:
    sizes = tuple(tuple(smallest * 2 ** (level + i / scales) for i in range(scales)) for level in range(levels))
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * levels)


def build_detector(
    spec: Spec,
    *,
    num_classes: int = 91,
    in_chans: int = 3,
    position: str = "relative",
    impl: str = "auto",
    img_size: int | None = None,
    norm: str = "batch",
    trained_layers: int = 5,
    key_ratio: float | None = None,
    value_ratio: float | None = None,
    num_heads: int | None = None,
    min_key_channels_per_head: int | None = None,
    **options: Any,
) -> Detector:
    """The detector in a row of ``SPECS``, freshly initialised.

    Args:
        spec: The row.
        num_classes: c; 91 are COCO's ids with a background, as torchvision counts them.
        in_chans: Image channels, 3.
        position, impl: See ``AttentionAugmentedConv2d``.
        img_size: Pixels of an edge that the position tables are built for and that the longer side of an image is
            resized to; None takes the row's. Larger maps are served by the tables' rule; attention's work grows with
            the square of their cells: from 640 to 1280 pixels 16 times, where the convolutions' grows 4 times.
        norm: "batch", or "frozen": batch norms whose statistics and weights stay as they are loaded. Synchronised ones
            are made by ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, or the recipes' ``machine.sync_batch_norm``.
        trained_layers: Of stem and four stages, how many are trained, counted from the last: 0 to 5.
        key_ratio, value_ratio, num_heads, min_key_channels_per_head: Attention's shares; None takes the row's. Those
            of the paper's detectors are not known.
        options: See ``retinanet``.
    """
    if in_chans != 3:
        raise ValueError(f"in_chans must be 3 for a detector, got {in_chans}; repeat grey images three times")
    expect_one_of("norm", norm, NORMS)
    size = spec.img_size if img_size is None else expect_int("img_size", img_size)
    chosen = {"key_ratio": key_ratio, "value_ratio": value_ratio, "num_heads": num_heads}
    chosen["min_key_channels_per_head"] = min_key_channels_per_head
    body = _with_shares(spec.body, {name: value for name, value in chosen.items() if value is not None})
    network = resnet.AugmentedResNet(body, position, impl, size, num_classes=0)
    _freeze(network, norm, trained_layers)
    channels = [int(network.feature_info[int(name[-1])]["num_chs"]) for name in MAPS]  # type: ignore[call-overload]
    getter = IntermediateLayerGetter(network, {name: name for name in MAPS})
    cells = {"pyramid_channels", "coarse_maps", "smallest_anchor"}
    row = {name: getattr(spec, name) for name in cells}
    return retinanet(getter, channels, num_classes=num_classes, img_size=size, **{**row, **options})


def _with_shares(body: resnet.Spec, changes: dict[str, Any]) -> resnet.Spec:
    if not changes:
        return body
    if body.shares is None:
        raise ValueError(f"{', '.join(changes)} must be left out for a detector without attention")
    return replace(body, shares=replace(body.shares, **changes))


def _freeze(network: nn.Module, norm: str, trained_layers: int) -> None:
    """Fix the norms where asked, and the parameters of all but the last layers."""
    layers = ("layer4", "layer3", "layer2", "layer1", "conv1")
    if expect_int("trained_layers", trained_layers, minimum=0) > len(layers):
        raise ValueError(f"trained_layers must be at most {len(layers)}, got {trained_layers}")
    if norm == "frozen":
        from timm.utils.model import freeze_batch_norm_2d

        freeze_batch_norm_2d(network)
    trained = layers[:trained_layers] + (("bn1",) if trained_layers == len(layers) else ())
    for name, parameter in network.named_parameters():
        if not name.startswith(trained):
            parameter.requires_grad_(False)


DETECTORS: dict[str, Callable[..., nn.Module]] = {name: partial(build_detector, spec) for name, spec in SPECS.items()}
