"""The demonstration, made small: both networks, the report, the interval, the attention shares."""

import functools
import re

import pytest
import torch

from aaconv import demo
from aaconv.data.digit_pairs import SCAN_EDGE, compose_pairs
from aaconv.training.checkpoint import load_checkpoint


def test_demo_writes_report_history_and_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "digit_pairs", functools.partial(demo.digit_pairs, 256, 400))
    said = []
    report = demo.run_demo(tmp_path, epochs=1, say=said.append)
    page = report.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    for name in ("resnet10s", "aa_resnet10s"):
        assert name in page
        model, card = load_checkpoint(tmp_path / name / "model.safetensors")
        assert card.classes == ("different", "same")
        assert (tmp_path / name / "metrics.csv").exists()
        pairs = compose_pairs("test", 400, seed=0)
        accuracy = (model(card.normalize(pairs.images)).argmax(1) == pairs.labels).float().mean().item()
        assert f"{accuracy:.1%}" in page
    assert "The 95% intervals overlap: this run shows no difference." in page  # 2 steps of training
    parameters = [int(number.replace(",", "")) for number in re.findall(r"<td>(\d{3},\d{3})</td>", page)]
    assert len(parameters) == 2
    assert abs(parameters[0] / parameters[1] - 1) < 0.03
    assert [line.split(":")[0] for line in said[1:]] == ["plain", "augmented"]


def test_other_digit_is_where_the_second_scan_stands():
    pairs = compose_pairs("test", 20, seed=1)
    inside = demo._other_digit(pairs)
    for mask, corners in zip(inside, pairs.corners[:, 1], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert (rows.min(), columns.min()) == tuple(corners)
        assert mask.sum() == SCAN_EDGE**2


def test_maps_start_from_the_middle_of_the_first_digit(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "digit_pairs", functools.partial(demo.digit_pairs, 256, 400))
    data = demo.digit_pairs()
    run = demo.train(demo.load_recipe("digits", ["--epochs=1"]), tmp_path, data=data)
    cells, maps = demo._maps_from_first_digit(run, data.val)
    assert maps.shape == (400, 4, 8, 8)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(400, 4))
    middle = data.val.corners[:, 0] + SCAN_EDGE // 2
    assert ((cells * 4 <= middle) & (middle < cells * 4 + 4)).all()
    with demo.record(run.model) as recording:
        run.model(run.card.normalize(data.val.images[300:301]))
    query = int(cells[300, 0] * 8 + cells[300, 1])
    torch.testing.assert_close(recording.maps(demo.LAYER, [query])[0, :, 0], maps[300], rtol=1e-4, atol=1e-6)


def test_needs_epochs(tmp_path):
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        demo.run_demo(tmp_path, epochs=0, say=lambda text: None)
