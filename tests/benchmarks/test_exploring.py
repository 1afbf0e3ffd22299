"""The benchmark of the page: answers are compared while they are timed."""

import json
import sys

import pytest

pytest.importorskip("gradio")


@pytest.fixture
def program(load):
    """The program."""
    return load("exploring")


def run(program, monkeypatch, *arguments):
    tiny = [
        "--model",
        "aa_resnet10s",
        "--size",
        "32",
        "--clicks",
        "3",
        "--sessions",
        "2",
        "--rate",
        "10",
        "--seconds",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["exploring.py", *tiny, *arguments])
    monkeypatch.setattr(program, "BROWSERS", ())
    return program.main()


def test_times_are_written(program, monkeypatch, tmp_path):
    assert run(program, monkeypatch, "--out", str(tmp_path)) == 0
    click, first, many = json.loads((tmp_path / "exploring.json").read_text())["rows"]
    assert (click["name"], click["layers"], click["heads"]) == ("click, aa_resnet10s at 32", 2, 8)
    assert 0 < click["ms"] <= click["slowest"]
    assert first["why"] == "no browser"
    assert (many["clicks"], many["lost"], many["wrong"]) == (10, 0, 0)


def test_wrong_answers_fail(program, monkeypatch):
    true = program.pack_from
    monkeypatch.setattr(program, "pack_from", lambda look, point: true(look, (0.99 - point[0], point[1])))
    assert run(program, monkeypatch) == 1
