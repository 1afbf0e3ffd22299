"""What is trained, and what the paper says should come out: rows of tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aaconv.paper import COCO_POSITIONS, FIGURE_4, TABLES

SHARES = (25, 50, 75, 100)  # percent of an augmented convolution's channels that come from attention
SEEDS = 5
IMAGES, HELD_OUT = 12_800, 4_000  # canvases of an epoch, and those that accuracy is measured on

# The paper's experiments whose figures stand beside ours: short name and title.
CIFAR, IMAGENET, FIGURE, COCO = "CIFAR-100", "ImageNet", "figure 4", "COCO"
AA_RESNETS = ("AA-ResNet-34", "AA-ResNet-50")
EXPERIMENTS = {
    CIFAR: "CIFAR-100, Wide-ResNet-28-10",
    IMAGENET: "ImageNet, ResNet-50",
    FIGURE: "ImageNet, ResNet-50, figure 4",
    **{name: f"ImageNet, {name}" for name in AA_RESNETS},
    COCO: "COCO, RetinaNet on AA-ResNet-50, mAP",
}


@dataclass(frozen=True)
class Printed:
    """Percent that the paper prints, or a difference of such; ``remembered``: from memory, not read again."""

    value: float
    remembered: bool = False


@dataclass(frozen=True)
class Arm:
    """A network that is trained with every seed, and the paper's figures of its kind by ``EXPERIMENTS``."""

    label: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, Printed] = field(default_factory=dict)


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

    @property
    def arms(self) -> tuple[str, ...]:
        """All that it speaks of."""
        return self.more + self.less

    def printed(self) -> dict[str, Printed]:
        """The difference in the paper, in each experiment that has figures of all its arms."""
        gaps = {}
        for name in EXPERIMENTS:
            found = [ARMS[arm].paper.get(name) for arm in self.arms]
            known = [figure for figure in found if figure is not None]
            if len(known) == len(found):
                signs = [1] * len(self.more) + [-1] * len(self.less)
                gap = sum(sign * figure.value for sign, figure in zip(signs, known, strict=True))
                gaps[name] = Printed(round(gap, 6), any(figure.remembered for figure in known))
        return gaps


def _table(number: int, label: str) -> Printed | None:
    """Top-1 percent in the first row ``label`` of the paper's table; None where there is none."""
    rows = (row for table in TABLES if table.number == number for row in table.rows if row.label == label)
    row = next(rows, None)
    return None if row is None or row.top1 is None else Printed(row.top1, row.sure == "remembered")


def _known(figures: dict[str, Printed | None]) -> dict[str, Printed]:
    return {name: figure for name, figure in figures.items() if figure is not None}


def _mechanism(prefix: str) -> dict[str, Printed]:
    return _known({CIFAR: _table(1, f"{prefix}Wide-ResNet"), IMAGENET: _table(2, f"{prefix}ResNet-50")})


def _share(share: int, place: int) -> dict[str, Printed]:
    return {FIGURE: Printed(FIGURE_4[share][place])}


def _position(position: str) -> dict[str, Printed]:
    coco = COCO_POSITIONS.get(position)
    tables = {name: _table(7, f"{name}, {position}") for name in AA_RESNETS}
    return _known({**tables, COCO: None if coco is None else Printed(coco)})


def _attention(share: int, paper: dict[str, Printed], position: str = "relative") -> Arm:
    words = {"relative": "relative positions", "none": "no positions", "sine": "sine waves", "coordconv": "CoordConv"}
    options = {} if position == "relative" else {"position": position}
    return Arm(f"attention {share}%, {words[position]}", f"aa_resnet10xs_r{share}", options, paper)


ARMS: dict[str, Arm] = {
    "plain": Arm("plain convolution", "resnet10xs", paper=_mechanism("") | _known({FIGURE: _table(6, "0%")})),
    "se": Arm("squeeze-and-excitation", "se_resnet10xs", paper=_mechanism("SE-")),
    "ge": Arm("gather-excite", "ge_resnet10xs", paper=_mechanism("GE-")),
    "bam": Arm("BAM", "bam_resnet10xs", paper=_mechanism("BAM-")),
    "cbam": Arm("CBAM", "cbam_resnet10xs", paper=_mechanism("CBAM-")),
    "aa25": _attention(25, _mechanism("AA-") | _share(25, 0) | _position("relative")),
    "aa25-sine": _attention(25, _position("sine"), "sine"),
    "aa25-coordconv": _attention(25, _position("coordconv"), "coordconv"),
    "aa25-none": _attention(25, _share(25, 1) | _position("none"), "none"),
    "aa50": _attention(50, _share(50, 0)),
    "aa50-none": _attention(50, _share(50, 1), "none"),
    "aa75": _attention(75, _share(75, 0)),
    "aa75-none": _attention(75, _share(75, 1), "none"),
    "aa100": _attention(100, _share(100, 0)),
    "aa100-none": _attention(100, _share(100, 1), "none"),
}
MECHANISMS = ("plain", "se", "ge", "bam", "cbam", "aa25")
POSITIONS = {"none": "aa25-none", "sine": "aa25-sine", "coordconv": "aa25-coordconv", "relative": "aa25"}

_COMMON = ("--data.size=24", "--epochs=5", "--batch_size=64", "--optimizer.lr=5e-3", "--machine.loggers=[]")
TASKS: dict[str, Task] = {
    "digits": Task("same digit or not (long range)", "digits", _COMMON, 0.5),
    "clutter": Task("digit among clutter (ordinary)", "clutter", _COMMON, 0.1),
}

CLAIMS = (
    Claim("attention is better than plain convolution", ("aa25",), ("plain",)),
    Claim("attention is better than squeeze-and-excitation", ("aa25",), ("se",)),
    Claim("attention is better than gather-excite", ("aa25",), ("ge",)),
    Claim("attention is better than BAM", ("aa25",), ("bam",)),
    Claim("attention is better than CBAM", ("aa25",), ("cbam",)),
    Claim("squeeze-and-excitation is better than plain", ("se",), ("plain",)),
    Claim("plain is better than gather-excite", ("plain",), ("ge",)),
    Claim("relative positions are better than none", ("aa25",), ("aa25-none",)),
    Claim("relative positions are better than sine waves", ("aa25",), ("aa25-sine",)),
    Claim("relative positions are better than CoordConv", ("aa25",), ("aa25-coordconv",)),
    Claim("a share of 25% is better than 50%", ("aa25",), ("aa50",)),
    Claim("50% is better than 75%", ("aa50",), ("aa75",)),
    Claim("75% is better than 100%", ("aa75",), ("aa100",)),
    Claim("plain is better than 100%", ("plain",), ("aa100",)),
    *(
        Claim(f"at {share}%, relative positions are better than none", (f"aa{share}",), (f"aa{share}-none",))
        for share in SHARES[1:]
    ),
    Claim("positions matter more at 100% than at 25%", ("aa100", "aa25-none"), ("aa100-none", "aa25")),
)
