"""The benchmark of the operation: parity before time, and every contender in what it writes."""

import json
import sys

import pytest
import torch


@pytest.fixture
def attention(load, monkeypatch):
    """The program."""
    module = load("attention")
    eager = {name: attend for name, attend in module.rivals_on(module.CPU).items() if "compiled" not in name}
    monkeypatch.setattr(module, "rivals_on", lambda device: dict(eager))
    return module


def run(attention, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["attention.py", "--repeats", "1", "--shape", "1,2,3,4,5,6", *arguments])
    return attention.main()


def test_every_contender_is_timed_and_written(attention, monkeypatch, tmp_path, capsys):
    assert run(attention, monkeypatch, "--out", str(tmp_path)) == 0
    report = json.loads((tmp_path / "attention.json").read_text())
    assert {row["name"] for row in report["rows"]} == set(attention.contenders_here())
    assert {row["mode"] for row in report["rows"]} == {"inference", "training"}
    assert all(row["value"] > 0 for row in report["rows"])
    assert report["machine"]["torch"] == torch.__version__
    assert "| 1, 2, 3, 4, 5, 6 | training |" in capsys.readouterr().out


def test_nothing_is_timed_when_one_is_wrong(attention, monkeypatch, tmp_path, capsys):
    right = attention.rivals_on(attention.CPU)
    wrong = {"wrong": lambda *tensors, grid: right["broadcast"](*tensors, grid=grid) * 1.01}
    monkeypatch.setattr(attention, "rivals_on", lambda device: right | wrong)
    assert run(attention, monkeypatch, "--out", str(tmp_path)) == 1
    assert "not timed: wrong differ from the formula" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_low_precision_is_judged_by_the_formula_in_it(attention, monkeypatch):
    assert run(attention, monkeypatch, "--dtype", "bfloat16") == 0


@torch.no_grad()
def test_flex_attention_is_the_formula(attention):
    from rivals import flex, materialised

    tensors = [t.detach() for t in attention.make((2, 3, 5, 8, 7, 4))]
    torch.testing.assert_close(flex(*tensors, grid=(5, 8)), materialised(*tensors, grid=(5, 8)))


def test_a_missing_gpu_is_said(attention, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        run(attention, monkeypatch, "--device", "cuda")
    assert "torch finds no GPU here" in capsys.readouterr().err
