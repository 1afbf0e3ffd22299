"""The benchmark of COCO's figures: equal to pycocotools' before time and memory are taken."""

import json
import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("faster_coco_eval")


@pytest.fixture
def program(load):
    """The program."""
    return load("detection_evaluation")


def run(program, monkeypatch, *arguments):
    tiny = ["--repeats", "1", "--images", "20", "--detections", "200", "--truths", "90", "--checked", "10"]
    monkeypatch.setattr(sys, "argv", ["detection_evaluation.py", *tiny, *arguments])
    return program.main()


def test_time_and_memory_are_written(program, monkeypatch, tmp_path, capsys):
    pytest.importorskip("pycocotools")
    assert run(program, monkeypatch, "--out", str(tmp_path)) == 0
    report = json.loads((tmp_path / "detection_evaluation.json").read_text())
    assert (report["size"], report["checked"]) == ([20, 200, 80, 90], 10)
    time, memory = report["rows"]
    assert (time["name"], time["unit"], len(time["all"])) == ("time", "s", 1)
    assert (memory["name"], memory["unit"]) == ("peak memory", "MiB")
    assert time["value"] > 0 <= memory["value"] < 500
    assert report["machine"]["torch"] == torch.__version__
    assert capsys.readouterr().out.startswith("20 images, 90 boxes of 80 classes, 200 detections\ntime ")


def test_nothing_is_timed_when_a_figure_differs(program, monkeypatch, tmp_path, capsys):
    pytest.importorskip("pycocotools")
    right = program.score
    monkeypatch.setattr(program, "score", lambda *case: replace(right(*case), mar10=0.5, map_small=None))
    assert run(program, monkeypatch, "--out", str(tmp_path)) == 1
    assert "not timed: map_small, mar10 differ from pycocotools'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_it_says_when_nothing_was_checked(program, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "RIVAL", "no_such_package")
    monkeypatch.setattr(program, "peak_memory", lambda work, size: work(size) or 1.0)
    assert run(program, monkeypatch, "--out", str(tmp_path)) == 0
    assert "not checked: no_such_package is not installed" in capsys.readouterr().out
    assert json.loads((tmp_path / "detection_evaluation.json").read_text())["checked"] == 0


def test_what_is_made_has_the_size_and_all_kinds_of_boxes(program):
    truth, found = program.made((200, 1000, 8, 700))
    assert (len(truth.names), len(truth.boxes), len(truth.classes)) == (200, 700, 8)
    assert truth.starts.tolist() == sorted(truth.starts.tolist())
    assert (truth.starts[0], truth.starts[-1]) == (0, 700)
    assert 0 < truth.crowd.sum() < 30
    assert (truth.starts[1:] == truth.starts[:-1]).any()
    assert [each.image for each in found] == list(range(200))
    assert sum(len(each.scores) for each in found) == 1000
    scores = program.score(truth, found)
    assert 0.1 < scores.map < 0.9
    assert None not in (scores.map_small, scores.map_medium, scores.map_large)
