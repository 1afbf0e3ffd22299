"""The pictures: what stands in the axes is what was measured and printed."""

import pytest

from aaconv.paper import FIGURE_4
from aaconv.reproduction.plan import ARMS, MECHANISMS, SHARES, TASKS
from aaconv.reproduction.plots import plot_mechanisms, plot_shares
from aaconv.reproduction.statistics import interval

SEEDS = {0: 0.0, 1: 0.02, 2: -0.01}


def results(tasks=tuple(TASKS)):
    """Every arm with a mean of its own."""
    return {
        task: {
            arm: {seed: 0.5 + 0.02 * number + wobble for seed, wobble in SEEDS.items()}
            for number, arm in enumerate(ARMS)
        }
        for task in tasks
    }


def bars(axes):
    """Positions and values of each line with intervals, and where its bars end."""
    for container in axes.containers:
        line, _, (collection,) = container
        yield line.get_xdata(), line.get_ydata(), [segment[:, 1] for segment in collection.get_segments()]


def test_shares_are_the_means_and_intervals():
    found = results()
    figure = plot_shares(found)
    panels = figure.axes
    assert [axes.get_title() for axes in panels[:2]] == [task.title for task in TASKS.values()]
    for axes, accuracies in zip(panels, found.values(), strict=False):
        lines = list(bars(axes))
        assert len(lines) == 2
        for (places, values, ends), ending in zip(lines, ("", "-none"), strict=True):
            arms = ["plain", *(f"aa{share}{ending}" for share in SHARES)]
            means = [interval(list(accuracies[arm].values())) for arm in arms]
            assert list(places) == pytest.approx([0, 25, 50, 75, 100], abs=2)
            assert list(values) == pytest.approx([100 * mean.mean for mean in means])
            for end, mean in zip(ends, means, strict=True):
                assert list(end) == pytest.approx([100 * mean.low, 100 * mean.high])


def test_the_papers_panel():
    panel = plot_shares(results()).axes[-1]
    with_positions, without = (list(line.get_ydata()) for line in panel.get_lines())
    assert with_positions == [76.4, *(FIGURE_4[share][0] for share in SHARES)]
    assert without == [76.4, *(FIGURE_4[share][1] for share in SHARES)]
    assert "figure 4" in panel.get_title()


def test_lines_are_told_apart_without_colour():
    for axes in plot_shares(results()).axes:
        styles = [(line.get_marker(), line.get_linestyle()) for line in axes.get_lines()]
        assert sorted(style for style in styles if style[0] in "os") == [("o", "-"), ("s", "--")]


def test_mechanisms_show_every_seed_and_the_mean():
    found = results()
    figure = plot_mechanisms(found)
    for axes, accuracies in zip(figure.axes, found.values(), strict=True):
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]  # the first panel's serve all
        assert labels == [ARMS[arm].label for arm in reversed(MECHANISMS)]
        dots = [line for line in axes.get_lines() if line.get_marker() == "." and line.get_linestyle() == "None"]
        for row, arm in enumerate(reversed(MECHANISMS)):
            values = [100 * value for value in accuracies[arm].values()]
            assert list(dots[row].get_xdata()) == pytest.approx(values)
            mean, _, (collection,) = axes.containers[row]
            assert (mean.get_xdata()[0], mean.get_ydata()[0]) == (pytest.approx(sum(values) / 3), row)
            (segment,) = collection.get_segments()
            expected = interval(values)
            assert list(segment[:, 0]) == pytest.approx([expected.low, expected.high])


def test_chance_is_drawn_where_values_lie_about_it():
    found = results()
    found["digits"]["plain"] = {0: 0.49, 1: 0.51}
    digits, clutter = plot_mechanisms(found).axes
    assert [list(line.get_xdata()) for line in digits.get_lines() if line.get_label() == "chance"] == [[50, 50]]
    assert not [line for line in clutter.get_lines() if line.get_label() == "chance"]


def test_arms_without_an_interval_are_left_out():
    found = results(("digits",))
    del found["digits"]["aa50"]
    found["digits"]["aa75"] = {4: 0.9}
    places, values, _ = next(bars(plot_shares(found).axes[0]))
    assert list(places) == pytest.approx([0, 25, 100], abs=2)
    assert len(values) == 3
    found["digits"] = {"se": {0: 0.6}}
    (axes,) = plot_mechanisms(found).axes
    assert not axes.containers
    assert sorted(len(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == ".")[-1] == 1
