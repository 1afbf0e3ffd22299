"""Recordings show the attention that ran; figures and the page are complete."""

import re

import pytest
import torch
from matplotlib.figure import Figure

from aaconv import create_model
from aaconv.explain import record
from aaconv.explain.plots import plot_attention
from aaconv.explain.report import Section, write_report


@pytest.mark.parametrize("impl", ["reference", "folded"])
def test_recorded_weights_times_values_is_what_the_layer_gave(impl):
    model = create_model("aa_resnet10s", num_classes=2, in_chans=1, impl=impl).double().eval()
    outputs = {}
    layers = {name: m for name, m in model.named_modules() if name.endswith(".attention")}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda module, args, out, name=name: outputs.update({name: out}))
    with record(model) as recording:
        model(torch.randn(2, 1, 32, 32, dtype=torch.float64))
    assert list(recording.layers) == list(layers) == ["blocks.2.conv1.attention", "blocks.3.conv1.attention"]
    for name, layer in layers.items():
        maps = recording.maps(name, torch.arange(64))  # [B, N, L, H, W]
        values = layer.project(recording.inputs[name]).v
        heads = maps.flatten(-2) @ values  # [B, N, L, V]
        joined = heads.permute(0, 1, 3, 2).flatten(1, 2).unflatten(-1, (8, 8))
        torch.testing.assert_close(layer.out(joined), outputs[name])


def test_recording_ends_with_the_block():
    model = create_model("aa_resnet10s", num_classes=2, in_chans=1)
    with record(model) as recording:
        pass
    model(torch.randn(1, 1, 32, 32))
    with pytest.raises(ValueError, match="has not run while recording; call the model inside the with block"):
        recording.maps("blocks.2.conv1.attention", [0])
    with pytest.raises(ValueError, match=r"layer must be one of .*; did you mean 'blocks.2.conv1.attention'"):
        recording.maps("blocks.2.conv1", [0])
    with (
        pytest.raises(ValueError, match="SmallResNet has no attention layer to record"),
        record(create_model("resnet10s", num_classes=2)),
    ):
        pass


def test_attention_figure_marks_the_query_and_keeps_maps_in_place():
    image = torch.zeros(32, 32)
    maps = torch.zeros(3, 8, 4)
    maps[1, 2, 3] = 1
    figure = plot_attention([(image, maps, (2, 1), "same")] * 2)
    assert len(figure.axes) == 8
    shown = figure.axes[2].images[1]
    assert shown.get_array()[2, 3, 3] == pytest.approx(0.85)  # alpha
    assert shown.get_array()[:, :, 3].sum() == pytest.approx(0.85)
    assert list(shown.get_extent()) == [-0.5, 31.5, 31.5, -0.5]
    frame = figure.axes[0].patches[0]
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((7.5, 7.5), 8, 4)


def test_report_is_whole_and_self_contained(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    sections = [
        Section("A <b>title</b>", ["a paragraph"], header=("x", "y"), rows=[("1", "2 < 3")]),
        Section("Picture", figure=figure, alt="a line"),
    ]
    write_report(tmp_path / "report.html", "Title", "Lead.", sections)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A &lt;b&gt;title&lt;/b&gt;" in page
    assert "2 &lt; 3" in page
    assert 'alt="a line"' in page
    assert re.findall(r'src="(.{22})', page) == ["data:image/png;base64,"]
    assert "http" not in page
