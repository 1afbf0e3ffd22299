"""RetinaNet on attention-augmented backbones: a row of the table is a detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from aaconv._checks import expect_int, expect_one_of
from aaconv.models import resnet
from aaconv.models.detector import Detector, retinanet
from aaconv.models.placement import Shares

__all__ = ["DETECTORS", "SPECS", "Detector", "build_detector", "retinanet"]
MAPS = ("layer2", "layer3", "layer4")  # of the body, that the pyramid is built on
NORMS = ("batch", "frozen")


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


def build_detector(
    spec: Spec,
    *,
    num_classes: int = 80,
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
        num_classes: c; COCO has 80.
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
