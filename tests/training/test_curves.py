"""Learning curves show what was measured."""

import pytest

from aaconv.training.curves import plot_curves

ROWS = [
    {
        "step": step,
        "train_accuracy": 0.1 * step,
        "val_accuracy": 0.05 * step,
        "train_loss": 2 / step,
        "val_loss": 3 / step,
    }
    for step in (1, 2, 5)
]


def drawn(axes):
    """Label -> x, y and style of each line."""
    return {line.get_label(): (*map(list, line.get_data()), line.get_linestyle()) for line in axes.get_lines()}


def test_axes_hold_the_rows():
    left, right = plot_curves({"mine": ROWS}).axes
    for axes, metric in ((left, "accuracy"), (right, "loss")):
        assert drawn(axes) == {
            f"mine, {said}": ([1, 2, 5], [row[f"{part}_{metric}"] for row in ROWS], style)
            for said, part, style in (("training", "train", "--"), ("held out", "val", "-"))
        }
        assert axes.get_xlabel() == "optimiser step"
    assert (left.get_ylabel(), right.get_ylabel()) == ("accuracy", "loss")
    assert left.get_ylim()[1] == 1
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["mine, training", "mine, held out"]


def test_chance_is_a_line():
    left, right = plot_curves({"mine": ROWS}, chance=0.25).axes
    assert drawn(left)["chance"][1] == [0.25, 0.25]
    assert "chance" not in drawn(right)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_every_run_is_drawn_in_its_colour(count):
    histories = {f"run {i}": [{**row, "val_loss": row["val_loss"] + i} for row in ROWS] for i in range(count)}
    left, right = plot_curves(histories).axes
    for axes in (left, right):
        assert len(axes.get_lines()) == 2 * count
    lines = {line.get_label(): line for line in right.get_lines()}
    colours = [lines[f"run {i}, held out"].get_color() for i in range(count)]
    assert len(set(colours)) >= min(count, 4)
    assert colours == [lines[f"run {i}, training"].get_color() for i in range(count)]
    assert list(lines["run 1, held out"].get_ydata()) == [row["val_loss"] + 1 for row in ROWS]


def test_run_that_has_just_begun(tmp_path):
    figure = plot_curves({"mine": ROWS[:1], "other": []})
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
