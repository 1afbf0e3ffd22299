"""What is trained, and what the paper says should come out: rows of tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aaconv.paper import FIGURE_4, printed_top1

SHARES = (25, 50, 75, 100)  # percent of an augmented convolution's channels that come from attention
SEEDS = 5


@dataclass(frozen=True)
class Arm:
    """A network that is trained with every seed; ``paper`` holds printed accuracies, percent, by experiment."""

    label: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A task: the recipe that it comes from, what changes in it, and what it is."""

    title: str
    recipe: str
    overrides: tuple[str, ...]
    chance: float


@dataclass(frozen=True)
class Claim:
    """An ordering of the paper: the sum of accuracies of ``more`` exceeds that of ``less``."""

    text: str
    more: tuple[str, ...]
    less: tuple[str, ...]
    source: str


CIFAR, IMAGENET, FIGURE = "CIFAR-100, Wide-ResNet-28-10", "ImageNet, ResNet-50", "ImageNet, ResNet-50, figure 4"
_AA = "aa_resnet10xs_r{}"


def _mechanism(label: str, model: str, prefix: str) -> Arm:
    """A network and what the paper prints for its kind; "remembered" rows are left out."""
    figures = {CIFAR: (1, f"{prefix}Wide-ResNet"), IMAGENET: (2, f"{prefix}ResNet-50")}
    known = {name: printed_top1(*where) for name, where in figures.items()}
    return Arm(label, model, paper={name: value for name, value in known.items() if value is not None})


def _share(share: int, place: int, position: str) -> Arm:
    options = {} if position == "relative" else {"position": position}
    words = "relative positions" if position == "relative" else "no positions"
    return Arm(f"attention {share}%, {words}", _AA.format(share), options, {FIGURE: FIGURE_4[share][place]})


ARMS: dict[str, Arm] = {
    "plain": _mechanism("plain convolution", "resnet10xs", ""),
    "se": _mechanism("squeeze-and-excitation", "se_resnet10xs", "SE-"),
    "ge": _mechanism("gather-excite", "ge_resnet10xs", "GE-"),
    "bam": Arm("BAM", "bam_resnet10xs"),
    "cbam": Arm("CBAM", "cbam_resnet10xs"),
    **{f"aa{share}": _share(share, 0, "relative") for share in SHARES[1:]},
    **{f"aa{share}-none": _share(share, 1, "none") for share in SHARES},
    "aa25": Arm(
        "attention 25%, relative positions",
        _AA.format(25),
        paper={**_mechanism("", "", "AA-").paper, FIGURE: FIGURE_4[25][0]},
    ),
    "aa25-sine": Arm("attention 25%, sine waves", _AA.format(25), {"position": "sine"}),
    "aa25-coordconv": Arm("attention 25%, CoordConv", _AA.format(25), {"position": "coordconv"}),
}
MECHANISMS = ("plain", "se", "ge", "bam", "cbam", "aa25")
POSITIONS = {"none": "aa25-none", "sine": "aa25-sine", "coordconv": "aa25-coordconv", "relative": "aa25"}

_COMMON = ("--data.size=24", "--epochs=5", "--batch_size=64", "--optimizer.lr=5e-3", "--machine.loggers=[]")
TASKS: dict[str, Task] = {
    "digits": Task("same digit or not (long range)", "digits", _COMMON, 0.5),
    "clutter": Task("digit among clutter (ordinary)", "clutter", _COMMON, 0.1),
}

_TABLES, _POSITIONS = "CIFAR-100 and ImageNet", "ImageNet and COCO"
CLAIMS = (
    Claim("attention is better than plain convolution", ("aa25",), ("plain",), _TABLES),
    Claim("attention is better than squeeze-and-excitation", ("aa25",), ("se",), _TABLES),
    Claim("attention is better than gather-excite", ("aa25",), ("ge",), "CIFAR-100"),
    Claim("attention is better than BAM", ("aa25",), ("bam",), "ImageNet, a remembered figure"),
    Claim("attention is better than CBAM", ("aa25",), ("cbam",), "ImageNet, a remembered figure"),
    Claim("squeeze-and-excitation is better than plain", ("se",), ("plain",), _TABLES),
    Claim("plain is better than gather-excite", ("plain",), ("ge",), "CIFAR-100"),
    Claim("relative positions are better than none", ("aa25",), ("aa25-none",), _POSITIONS),
    Claim("relative positions are better than sine", ("aa25",), ("aa25-sine",), _POSITIONS),
    Claim("relative positions are better than CoordConv", ("aa25",), ("aa25-coordconv",), _POSITIONS),
    Claim("a share of 25% is better than 50%", ("aa25",), ("aa50",), "figure 4"),
    Claim("50% is better than 75%", ("aa50",), ("aa75",), "figure 4"),
    Claim("75% is better than 100%", ("aa75",), ("aa100",), "figure 4"),
    Claim("plain is better than 100%", ("plain",), ("aa100",), "figure 4"),
    *(
        Claim(
            f"at {share}%, relative positions are better than none", (f"aa{share}",), (f"aa{share}-none",), "figure 4"
        )
        for share in SHARES[1:]
    ),
    Claim("positions matter more at 100% than at 25%", ("aa100", "aa25-none"), ("aa100-none", "aa25"), "figure 4"),
)
