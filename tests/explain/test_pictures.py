"""Pictures hold the data they should, in its place."""

import pytest
import torch

from aaconv import create_model
from aaconv.explain import record
from aaconv.explain.measures import HeadSummary, position_logits
from aaconv.explain.pictures import (
    cell_of,
    maps_from,
    plot_beside,
    plot_contributions,
    plot_heads,
    plot_layers,
    plot_points,
    plot_positions,
)

IMAGE = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
LAYERS = ["blocks.2.conv1.attention", "blocks.3.conv1.attention"]


@pytest.fixture(scope="module")
def recording():
    torch.manual_seed(0)
    model = create_model("aa_resnet10s", num_classes=2, in_chans=3).eval()
    with record(model) as recording, torch.no_grad():
        model(IMAGE[None] / 255)
    return recording


def alphas(panel):
    """Weights laid over the image, as shares of the largest."""
    return torch.from_numpy(panel.images[1].get_array()[:, :, 3]) / 0.85


@pytest.mark.parametrize(
    "point, cell", [((0, 0), (0, 0)), ((59.9, 39.9), (3, 5)), ((10, 9.99), (0, 1)), ((9.9, 10), (1, 0))]
)
def test_cells_of_points(point, cell):
    assert cell_of(point, (40, 60), (4, 6)) == cell


@pytest.mark.parametrize("point", [(-1, 0), (0, -0.1), (60, 0), (0, 40)])
def test_points_outside_are_refused(point):
    with pytest.raises(ValueError, match=r"point must lie in the image of 60x40 pixels, got \("):
        cell_of(point, (40, 60), (4, 6))


def test_maps_from_a_point_are_those_of_its_cell(recording):
    maps = maps_from(recording, (33, 12), (40, 60))
    assert list(maps) == LAYERS
    for layer, heads in maps.items():
        height, width = recording.grid(layer)
        query = int(12 * height / 40) * width + int(33 * width / 60)
        assert torch.equal(heads, recording.maps(layer, [query])[0, :, 0])
        content = maps_from(recording, (33, 12), (40, 60), "content")[layer]
        assert torch.equal(content, recording.maps(layer, [query], "content")[0, :, 0])


def test_layers_picture_has_every_head_and_their_mean(recording):
    point = (33, 12)
    maps = maps_from(recording, point, (40, 60))
    figure = plot_layers(IMAGE, maps, point)
    panels = figure.axes
    assert len(panels) == 2 * 6
    for row, (layer, heads) in enumerate(maps.items()):
        own = panels[6 * row : 6 * row + 6]
        assert own[0].get_ylabel() == layer
        assert (own[0].images[0].get_array() == IMAGE.permute(1, 2, 0).numpy()).all()
        assert len(own[0].images) == 1
        for panel, weights in zip(own[1:], [*heads, heads.mean(dim=0)], strict=True):
            torch.testing.assert_close(alphas(panel), weights / weights.max(), check_dtype=False)
            assert list(panel.images[1].get_extent()) == [-0.5, 59.5, 39.5, -0.5]
        height, width = heads.shape[1:]
        frame = own[3].patches[0]
        x, y = frame.get_xy()
        assert x + 0.5 <= point[0] < x + 0.5 + frame.get_width() == pytest.approx(x + 0.5 + 60 / width)
        assert y + 0.5 <= point[1] < y + 0.5 + frame.get_height() == pytest.approx(y + 0.5 + 40 / height)


def test_points_picture_has_a_panel_a_point():
    points = [(5, 5), (50, 30), (20, 39)]
    maps = torch.rand(3, 4, 6)
    figure = plot_points(IMAGE[:1], maps, points, columns=2)
    assert len(figure.axes) == 4
    for panel, weights, point in zip(figure.axes, maps, points, strict=False):
        torch.testing.assert_close(alphas(panel), weights / weights.max(), check_dtype=False)
        assert panel.get_title() == f"({point[0]}, {point[1]})"
        assert panel.images[0].get_array().shape == (40, 60)
    assert not figure.axes[3].axison
    with pytest.raises(ValueError, match="points must be as many as maps, got 3 and 2"):
        plot_points(IMAGE, maps[:2], points)


def test_maps_beside_each_other():
    maps = {"attention": torch.rand(4, 6), "class activation": torch.rand(40, 60)}
    figure = plot_beside(IMAGE, maps)
    for panel, (title, weights) in zip(figure.axes, maps.items(), strict=True):
        assert panel.get_title() == title
        torch.testing.assert_close(alphas(panel), weights / weights.max(), check_dtype=False)
        assert not panel.patches


def test_heads_are_dots_on_the_line_of_their_layer():
    rows = [HeadSummary(layer, head, 2.0 + head, 0.5, 0.1 * head) for layer in ("a", "b") for head in range(3)]
    figure = plot_heads(rows)
    for axes, name in zip(figure.axes, ("distance", "entropy", "inside"), strict=True):
        dots = axes.collections[0].get_offsets()
        assert dots[:, 0].tolist() == pytest.approx([getattr(row, name) for row in rows])
        assert dots[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first layer on top


def test_positions_picture_and_what_positions_add(recording):
    layer = recording.layers[LAYERS[1]]
    offsets = position_logits(recording, LAYERS[1])
    p = layer.project(recording.inputs[LAYERS[1]])
    height, width = p.grid
    assert offsets.shape == (4, 2 * height - 1, 2 * width - 1)
    terms = (p.q[:, 2] @ p.rel_h[3] + p.q[:, 2] @ p.rel_w[5]) * p.q.shape[-1] ** -0.5  # of one offset, [B, L]
    assert offsets[2, 3, 5].item() == pytest.approx(terms.mean().item(), rel=1e-4)
    figure = plot_positions(p.rel_h, p.rel_w, offsets)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    for got, wanted in zip(shown, [p.rel_h, p.rel_w, *offsets], strict=True):
        assert torch.equal(torch.from_numpy(got.data), wanted.detach())
    centre = figure.axes[2].images[0].get_extent()
    assert (centre[0], centre[3]) == (-centre[1], -centre[2])  # offset 0 in the middle
    other = create_model("aa_resnet10s", num_classes=2, position="none").eval()
    with record(other) as bare:
        other(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="has no relative positions"):
        position_logits(bare, LAYERS[0])


def test_contributions_are_bars():
    figure = plot_contributions({"a": (2.0, 0.5), "b": (-1.0, 0.25)})
    widths = [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers]
    assert widths == [[2.0, -1.0], [0.5, 0.25]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["convolution", "attention"]
