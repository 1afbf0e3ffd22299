"""The script of the packaged checkpoints: it rounds, measures what it ships, and its card says what was done."""

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("pytorch_lightning")

from aaconv.data.digit_pairs import digit_pairs
from aaconv.training.checkpoint import load_checkpoint

FOLDER = Path(__file__).parents[2] / "scripts"
TINY = ("--model.name=aa_resnet10xs_r25", "--epochs=1", "--batch_size=8", "--machine.loggers=[]")
CELLS = ("network", "made by", "data", "seed", "measured on this file", "as trained, in float32", "training", "file")


@pytest.fixture
def script(monkeypatch):
    """The program, which stands in no package, with few images."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "make_checkpoints", raising=False)
    module = importlib.import_module("make_checkpoints")
    few = digit_pairs(train_count=16, test_count=60)
    monkeypatch.setattr(module.classification, "load_data", lambda recipe: few)
    monkeypatch.setattr(module, "digit_pairs", lambda: few)
    return module


@pytest.fixture
def row(script):
    return replace(script.ROWS["digits"], changes=TINY)


def test_every_row_is_one_of_the_package_and_its_command_can_be_read(script):
    from aaconv.zoo import checkpoints

    assert sorted(script.ROWS) == sorted(checkpoints())
    for name, row in script.ROWS.items():
        kind = script.DetectionRecipe if row.detector else script.Recipe
        words = row.command.split()
        given = words[words.index("train") + 1 :]
        recipe = script.load_recipe(given[0], given[1:], kind)
        assert recipe == script.load_recipe(row.recipe, list(row.changes), kind)
        assert checkpoints()[name] == row.heading
        assert f"`{row.command}`" in (script.FOLDER / f"{name}.md").read_text(encoding="utf-8")


def test_trains_rounds_measures_and_tells(script, row, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    measured = []

    def measure(path):
        measured.append(path)
        return script.pair_accuracy(path)

    script.make("small", replace(row, measure=measure), run, out)
    shipped, trained = out / "small.safetensors", run / "model.safetensors"
    assert sorted(measured) == sorted([shipped, trained])
    rounded, whole = load_file(shipped), load_file(trained)
    for name, value in whole.items():
        wanted = value.half() if value.is_floating_point() else value
        torch.testing.assert_close(rounded[name], wanted, rtol=0, atol=0)  # the dtype is part of it
    with safe_open(shipped, "pt") as one, safe_open(trained, "pt") as other:
        assert one.metadata() == other.metadata()
    model, _ = load_checkpoint(shipped)
    assert {v.dtype for v in [*model.parameters(), *model.buffers()]} <= {torch.float32, torch.int64}

    text = (out / "small.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| ([\w, ]+) \| (.*) \|$", text, re.MULTILINE))
    assert tuple(told) == CELLS
    count = sum(parameter.numel() for parameter in model.parameters())
    assert told["network"] == f"`aa_resnet10xs_r25`, {count:,} parameters"
    assert told["made by"] == f"`{row.command}`"
    assert told["measured on this file"] == script.pair_accuracy(shipped)
    assert told["as trained, in float32"] == script.pair_accuracy(trained)
    assert re.match(r"\d+\.\d% of 60 test canvases right, 95% interval ", told["measured on this file"])
    assert told["file"].startswith(f"{shipped.stat().st_size:,} bytes")
    held = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert f"torch {held['packages']['torch']}, Python {held['python']}, aaconv {held['aaconv']}" in told["training"]
    assert text in capsys.readouterr().out


def test_a_finished_run_is_taken_as_it_is_or_refused(script, row, tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "out"
    script.make("small", row, run, out)
    files = {path: path.read_bytes() for path in [*out.iterdir(), *run.iterdir()] if path.is_file()}

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(script.classification, "train", refuse)
    script.make("small", row, run, out)
    assert {path: path.read_bytes() for path in files} == files

    other = replace(row, changes=(*TINY, "--optimizer.lr=0.1"))
    with pytest.raises(
        ValueError, match=r"run must hold the run of its row, got other values: optimizer\.lr 0\.003 -> 0"
    ):
        script.make("small", other, run, out)
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("threads, words", [(1, "one thread of an X, "), (2, "2 threads of an X, ")])
def test_the_machine_is_that_of_the_run(script, tmp_path, threads, words):
    held = {"threads": threads, "processor": "X", "packages": {"torch": "2.0"}, "python": "3.1", "aaconv": "0.9"}
    (tmp_path / "environment.json").write_text(json.dumps(held), encoding="utf-8")
    assert script.machine(tmp_path) == f"{words}torch 2.0, Python 3.1, aaconv 0.9"


def test_the_written_cards_are_of_todays_form(script):
    for name in script.ROWS:
        text = (script.FOLDER / f"{name}.md").read_text(encoding="utf-8")
        told = dict(re.findall(r"^\| ([\w, ]+) \| (.*) \|$", text, re.MULTILINE))
        assert tuple(told) == CELLS
        assert re.search(r"minutes by the clock; (one thread|\d+ threads) of an \w", told["training"])
