"""What the paper prints: the rows of its tables, and how sure each figure is.

Source: Bello et al. 2019, Attention Augmented Convolutional Networks, arXiv:1904.09925.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SURE = {
    "printed": "read in the paper's own table",
    "second-hand": "quoted by others",
    "remembered": "from memory, not read again: no target",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network as a table of the paper has it; None where nothing is printed."""

    table: int
    label: str
    model: str | None  # the name for ``aaconv.create_model``; None where it is not built
    changes: dict[str, Any] = field(default_factory=dict)  # arguments for it
    parameters: float | None = None  # millions
    gflops: float | None = None
    top1: float | None = None  # percent
    top5: float | None = None
    sure: str = "printed"  # of parameters and GFLOPs; see SURE
    image_size: int = 224
    convention: str = "paper"  # how our GFLOPs are counted, see aaconv.models.complexity
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table's title, and its rows: (label, model, parameters, GFLOPs, top-1, top-5) and what differs from usual."""

    number: int
    title: str
    rows: tuple[Row, ...]


def _rows(number: int, figures: list[tuple[Any, ...]], **usual: Any) -> tuple[Row, ...]:
    names = ("label", "model", "parameters", "gflops", "top1", "top5")
    rows = []
    for figure in figures:
        special = figure[6] if len(figure) > 6 else {}
        rows.append(Row(table=number, **{**usual, **dict(zip(names, figure[:6], strict=True)), **special}))
    return tuple(rows)


_EVERY = {"note": "every block augmented, as the words say"}
_FIRST = {"note": "one block a group augmented, as the figures say"}
_M = {"sure": "remembered"}
_NOT_BUILT = {"sure": "remembered", "note": "not built"}


def _positions(label: str, model: str, figures: dict[str, tuple[float, float]]) -> list[tuple[Any, ...]]:
    return [
        (f"{label}, {position}", model, None, None, *accuracy, {"changes": {"position": position}})
        for position, accuracy in figures.items()
    ]


# Six anchors a cell and 90 classes give what is printed for the detectors without attention.
_DETECTOR = {"num_classes": 90, "anchor_scales": 2}
# What attention's shares in the detectors were is not printed.
_READINGS: dict[str, dict[str, Any]] = {
    "kappa 0.2, upsilon 0.1, 20 key channels a head at least, as on ImageNet": {},
    "kappa 0.2, upsilon 0.1, no least key channels": {"min_key_channels_per_head": 0},
    "kappa 0.2, upsilon 0.1, 10 key channels a head at least": {"min_key_channels_per_head": 10},
    "kappa 0.25, upsilon 0.25, no least key channels": {
        "key_ratio": 0.25,
        "value_ratio": 0.25,
        "min_key_channels_per_head": 0,
    },
}


def _readings(*figures: Any) -> list[tuple[Any, ...]]:
    return [(*figures, {"changes": {**_DETECTOR, **changes}, "note": note}) for note, changes in _READINGS.items()]


TABLES = (
    Table(
        1,
        "CIFAR-100, Wide-ResNet-28-10",
        _rows(
            1,
            [
                ("Wide-ResNet", "wrn28_10", 36.3, 10.4, 80.3, 95.0),
                ("GE-Wide-ResNet", "ge_wrn28_10", 36.3, 10.4, 79.8, 95.0),
                ("SE-Wide-ResNet", "se_wrn28_10", 36.5, 10.4, 81.0, 95.3),
                ("AA-Wide-ResNet", "aa_wrn28_10", 36.2, 10.9, 81.6, 95.2, _EVERY),
                ("AA-Wide-ResNet", "aa_wrn28_10_first", 36.2, 10.9, 81.6, 95.2, _FIRST),
            ],
            image_size=32,
            convention="full",
        ),
    ),
    Table(
        2,
        "ImageNet, attention mechanisms on ResNet-50",
        _rows(
            2,
            [
                ("ResNet-50", "resnet50", 25.6, 8.2, 76.4, 93.1),
                ("SE-ResNet-50", "seresnet50", 28.1, 8.2, 77.5, 93.7),
                ("BAM-ResNet-50", "bam_resnet50", 25.9, None, 77.3, None, _M),
                ("CBAM-ResNet-50", "cbam_resnet50", 28.1, None, 77.4, None, _M),
                ("GALA-ResNet-50", None, 29.4, None, 77.5, None, _NOT_BUILT),
                ("AA-ResNet-50", "aa_resnet50", 25.8, 8.3, 77.7, 93.8),
            ],
        ),
    ),
    Table(
        3,
        "ImageNet, ResNets",
        _rows(
            3,
            [
                ("ResNet-34", "resnet34", 21.8, 7.4, 73.6, 91.5),
                ("SE-ResNet-34", "seresnet34", 22.0, 7.4, 74.3, 91.8),
                ("AA-ResNet-34", "aa_resnet34", 20.7, 7.1, 74.7, 92.0),
                ("ResNet-50", "resnet50", 25.6, 8.2, 76.4, 93.1),
                ("SE-ResNet-50", "seresnet50", 28.1, 8.2, 77.5, 93.7),
                ("AA-ResNet-50", "aa_resnet50", 25.8, 8.3, 77.7, 93.8),
                ("ResNet-101", "resnet101", 44.5, 15.6, 77.9, 94.0),
                ("SE-ResNet-101", "seresnet101", 49.3, 15.6, 78.4, 94.2),
                ("AA-ResNet-101", "aa_resnet101", 45.4, 16.1, 78.7, 94.4),
                ("ResNet-152", "resnet152", 60.2, 23.0, 78.4, 94.2),
                ("SE-ResNet-152", "seresnet152", 66.8, 23.1, 78.9, 94.5),
                ("AA-ResNet-152", "aa_resnet152", 61.6, 23.8, 79.1, 94.6),
            ],
        ),
    ),
    Table(
        4,
        "ImageNet, MnasNet",
        _rows(
            4,
            [
                ("MnasNet 0.75", "mnasnet_a1_075", 2.91, None, 73.3, None),
                ("AA-MnasNet 0.75", "aa_mnasnet_075", 3.02, None, 73.9, None),
                ("MnasNet 1.0", "mnasnet_a1_100", 3.89, None, 75.2, None),
                ("AA-MnasNet 1.0", "aa_mnasnet_100", 4.06, None, 75.7, None),
                ("MnasNet 1.25", "mnasnet_a1_125", 5.26, None, 76.7, None),
                ("AA-MnasNet 1.25", "aa_mnasnet_125", 5.53, None, 77.2, None),
                ("MnasNet 1.4", "mnasnet_a1_140", 6.10, None, 77.2, None),
                ("AA-MnasNet 1.4", "aa_mnasnet_140", 6.44, None, 77.7, None),
            ],
            sure="remembered",
        ),
    ),
    Table(
        5,
        "COCO, RetinaNet (accuracy: mAP and mAP50)",
        _rows(
            5,
            [
                ("RetinaNet, ResNet-50", "retinanet_resnet50_fpn", 33.4, 182, 36.8, 54.5),
                ("RetinaNet, SE-ResNet-50", "se_retinanet_resnet50_fpn", 35.9, 183, 36.5, 54.0),
                *_readings("RetinaNet, AA-ResNet-50", "aa_retinanet_resnet50_fpn", 33.1, 182, 38.2, 56.5),
                ("RetinaNet, ResNet-101", "retinanet_resnet101_fpn", 52.4, 243, 38.5, 56.4),
                *_readings("RetinaNet, AA-ResNet-101", "aa_retinanet_resnet101_fpn", 51.7, 245, 39.2, 57.8),
            ],
            sure="second-hand",
            image_size=640,
            changes=_DETECTOR,
        ),
    ),
    Table(
        6,
        "ImageNet, share of attention channels in ResNet-50",
        _rows(
            6,
            [
                ("0%", "resnet50", 25.6, 8.2, 76.4, 93.1),
                ("25%", "aa_resnet50_r25", 24.3, 7.9, 77.7, None),
                ("50%", "aa_resnet50_r50", 22.3, 7.3, 77.3, None),
                ("75%", "aa_resnet50_r75", 20.7, 6.8, 76.7, None),
                ("100%", "aa_resnet50_r100", 19.4, 6.3, 73.9, None),
            ],
        ),
    ),
    Table(
        7,
        "ImageNet, position encodings",
        _rows(
            7,
            _positions(
                "AA-ResNet-34",
                "aa_resnet34",
                {"none": (74.4, 91.9), "sine": (74.4, 92.0), "coordconv": (74.4, 92.0), "relative": (74.7, 92.0)},
            )
            + _positions(
                "AA-ResNet-50",
                "aa_resnet50",
                {"none": (77.5, 93.7), "sine": (77.5, 93.7), "coordconv": (77.5, 93.8), "relative": (77.7, 93.8)},
            ),
        ),
    ),
)

# Figure 4: top-1 percent of AA-ResNet-50 by share of attention channels, with and without relative positions.
FIGURE_4 = {25: (77.7, 77.5), 50: (77.3, 76.6), 75: (76.7, 75.4), 100: (73.9, 71.1)}
# mAP of RetinaNet with AA-ResNet-50 by position encoding.
COCO_POSITIONS = {"none": 37.7, "coordconv": 37.4, "relative": 38.2}
