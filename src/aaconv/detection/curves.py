"""Precision, recall and the classes of a detector as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aaconv.detection.scores import OVERLAPS, RECALLS, BoxScores
from aaconv.training.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Row of the overlap among all, colour and dashes: told apart without colours too.
DRAWN = ((0, COLOURS[0], "-"), (5, COLOURS[1], "--"), (9, COLOURS[2], ":"))
SHOWN = 20  # classes


def plot_precision_recall(scores: BoxScores) -> Figure:
    """Precision against recall at three overlaps and on average, and the average precision of each class."""
    from matplotlib.figure import Figure

    classes = _ranked(scores)
    figure = Figure(figsize=(9, max(3.4, 1 + 0.2 * len(classes))), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curves(left, scores)
    _draw_classes(right, classes)
    measured = len(scores.class_precision)
    if len(classes) < measured:
        half = SHOWN // 2
        right.set_ylabel(f"the {half} best and the {half} worst of {measured} classes")
        right.axhline(half - 0.5, color="0.5", linewidth=0.8, linestyle=":")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_curves(axes: Any, scores: BoxScores) -> None:
    for curve in scores.class_precision.values():
        axes.plot(RECALLS, curve, color="0.85", linewidth=0.6)
    for row, colour, dashes in DRAWN:
        curve = scores.precision[row]
        axes.plot(RECALLS, curve, dashes, color=colour, label=f"IoU {OVERLAPS[row]:.2f}: AP {curve.mean():.3f}")
    mean = scores.precision.mean(axis=0)
    label = f"mean of {len(OVERLAPS)} IoUs: AP {mean.mean():.3f}"
    axes.plot(RECALLS, mean, "-", color=COLOURS[3], linewidth=2.5, label=label)
    axes.plot([], [], color="0.85", linewidth=0.6, label=f"each class at IoU {OVERLAPS[0]:.2f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=8, frameon=False)


def _ranked(scores: BoxScores) -> list[tuple[str, float, float]]:
    """Names, AP and AP at the lowest overlap of the classes to show, worst first; those without boxes have none."""
    found = [
        (name, each["map"], each["map50"])
        for name, each in scores.classes.items()
        if each["map"] is not None and each["map50"] is not None
    ]
    found.sort(key=lambda row: row[1])
    return found if len(found) <= SHOWN else [*found[: SHOWN // 2], *found[-SHOWN // 2 :]]


def _draw_classes(axes: Any, classes: list[tuple[str, float, float]]) -> None:
    rows = range(len(classes))
    axes.barh(rows, [each for _, each, _ in classes], color=COLOURS[0], height=0.7, label="AP")
    axes.plot([each for _, _, each in classes], rows, "o", color=COLOURS[1], markersize=4, label="AP at IoU 0.50")
    axes.set_yticks(rows, [name for name, _, _ in classes], fontsize=8)
    axes.set(xlabel="average precision", xlim=(0, 1.02), ylim=(-0.6, len(classes) - 0.4))
    # Above the panel: inside, it would cover bars.
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
