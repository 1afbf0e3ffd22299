"""The picture of a detector holds its curves and its classes."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from aaconv.detection.curves import plot_precision_recall
from aaconv.detection.scores import FIGURES, OVERLAPS, RECALLS, BoxScores


def scores(classes):
    """Curves that differ in height; the last class has no boxes."""
    heights = np.linspace(0.9, 0.1, len(OVERLAPS))
    names = [f"kind {index}" for index in range(classes)]
    table = {
        name: {"map": 0.8 * (7 * index % classes + 1) / classes, "map50": 0.9 - 0.01 * index, "truths": 3}
        for index, name in enumerate(names)
    }
    return BoxScores(
        **dict.fromkeys(FIGURES, 0.25),
        images=1,
        boxes=1,
        detections=1,
        classes=table | {"none": {"map": None, "map50": None, "truths": 0}},
        precision=heights[:, None] * (1 - RECALLS),
        class_precision={name: each["map50"] * (1 - RECALLS) for name, each in table.items()},
    )


def bars(axes):
    """Name -> end of its bar and place of its dot, from below."""
    (dots,) = (line for line in axes.get_lines() if line.get_label() == "AP at IoU 0.50")
    names = [text.get_text() for text in axes.get_yticklabels()]
    for place, bar in enumerate(axes.patches):
        assert bar.get_y() + bar.get_height() / 2 == pytest.approx(place) == dots.get_ydata()[place]
    ends = [bar.get_width() for bar in axes.patches]
    return dict(zip(names, zip(ends, dots.get_xdata(), strict=True), strict=True))


def test_curves_are_those_of_the_overlaps_and_their_mean():
    found = scores(3)
    axes = plot_precision_recall(found).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith(("_", "each"))}
    areas = [0.5 * height for height in (0.9, 0.9 - 5 * 0.8 / 9, 0.1, 0.5)]
    assert list(lines) == [
        f"IoU 0.50: AP {areas[0]:.3f}",
        f"IoU 0.75: AP {areas[1]:.3f}",
        f"IoU 0.95: AP {areas[2]:.3f}",
        f"mean of 10 IoUs: AP {areas[3]:.3f}",
    ]
    for line, area in zip(lines.values(), areas, strict=True):
        assert list(line.get_xdata()) == list(RECALLS)
        np.testing.assert_allclose(line.get_ydata(), 2 * area * (1 - RECALLS))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall", "precision")
    assert axes.get_xlim() == (0, 1)


def test_lines_are_told_apart_without_colour():
    axes = plot_precision_recall(scores(3)).axes[0]
    styles = [
        (line.get_linestyle(), line.get_linewidth())
        for line in axes.get_lines()
        if line.get_label().startswith(("IoU", "mean"))
    ]
    assert len(set(styles)) == 4


def test_each_class_is_a_grey_line():
    found = scores(3)
    axes = plot_precision_recall(found).axes[0]
    grey = [line for line in axes.get_lines() if to_hex(line.get_color()) == to_hex("0.85") and len(line.get_xdata())]
    assert len(grey) == 3
    for line, curve in zip(grey, found.class_precision.values(), strict=True):
        assert list(line.get_ydata()) == list(curve)
    assert axes.get_legend().get_texts()[-1].get_text() == "each class at IoU 0.50"


@pytest.mark.parametrize("count", [1, 5, 20])
def test_classes_are_bars_best_on_top(count):
    found = scores(count)
    axes = plot_precision_recall(found).axes[1]
    wanted = {name: (each["map"], each["map50"]) for name, each in found.classes.items() if name != "none"}
    drawn = bars(axes)
    assert drawn == wanted
    assert [end for end, _ in drawn.values()] == sorted(end for end, _ in wanted.values())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("average precision", "")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["AP at IoU 0.50", "AP"]


def test_of_many_classes_the_best_and_the_worst():
    found = scores(80)
    axes = plot_precision_recall(found).axes[1]
    ranked = sorted((each["map"], each["map50"], name) for name, each in found.classes.items() if name != "none")
    assert bars(axes) == {name: (end, dot) for end, dot, name in [*ranked[:10], *ranked[-10:]]}
    assert axes.get_ylabel() == "the 10 best and the 10 worst of 80 classes"
    (between,) = (line for line in axes.get_lines() if len(line.get_xdata()) == 2)
    assert list(between.get_ydata()) == [9.5, 9.5]


def test_it_can_be_saved(tmp_path):
    plot_precision_recall(scores(21)).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
