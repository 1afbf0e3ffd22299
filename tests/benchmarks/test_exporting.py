"""The benchmark of exported files: a row for each network and format; what is there is not done again."""

import json
import sys

import pytest


@pytest.fixture
def program(load):
    """The program."""
    return load("exporting")


@pytest.mark.hard
def test_rows_are_written_and_completed(program, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    measured = []
    measure = program.measure
    monkeypatch.setattr(program, "measure", lambda *given: measured.append(given) or measure(*given))
    for opsets in (["18"], ["18", "20"], ["18", "20"]):
        words = ["--networks", "aa_resnet10xs_r25", "--opset", *opsets, "--repeats", "0", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["exporting.py", *words])
        assert program.main() == 0
    assert [list(formats) for _, formats in measured] == [["torch", "onnx 18"], ["onnx 20"]]
    rows = json.loads((tmp_path / "exporting.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["torch", "onnx 18", "onnx 20"]
    assert all(0 <= row["value"] < 1e-5 for row in rows)
