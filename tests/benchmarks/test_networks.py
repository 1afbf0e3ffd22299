"""The benchmarks of layer and networks: every contender in what they write, each repeat kept."""

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm")

FOLDER = Path(__file__).parents[2] / "benchmarks"


def program(name, monkeypatch, *arguments):
    """A program, which stands in no package, with its arguments."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in (name, "measuring"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--repeats", "2", *map(str, arguments)])
    return importlib.import_module(name)


def test_networks_in_pairs(monkeypatch, tmp_path, capsys):
    pair = "aa_resnet10xs_r25,resnet10xs,2,16"
    assert program("networks", monkeypatch, "--pair", pair, "--out", tmp_path).main() == 0
    rows = json.loads((tmp_path / "networks.json").read_text())["rows"]
    assert [(row["name"], row["mode"]) for row in rows] == [
        (name, mode) for mode in ("inference", "training") for name in ("aa_resnet10xs_r25", "resnet10xs")
    ]
    assert all(row["pair"] == "aa_resnet10xs_r25 / resnet10xs" and len(row["all"]) == 2 for row in rows)
    assert all(min(row["all"]) <= row["value"] <= max(row["all"]) for row in rows)
    first, second = rows[:2]
    assert f"{first['value'] / second['value']:6.2f} x" in capsys.readouterr().out


def test_layer(monkeypatch, tmp_path):
    layer = program("layer", monkeypatch, "--out", tmp_path)
    monkeypatch.setattr(layer, "BATCH", 1)
    assert layer.main() == 0
    rows = json.loads((tmp_path / "layer.json").read_text())["rows"]
    assert [row["name"] for row in rows][:2] == ["3x3 convolution", "augmented, auto"]
    assert all(len(row["all"]) == 2 and row["value"] > 0 for row in rows)


def test_results_belong_to_a_commit_and_a_machine(monkeypatch):
    measuring = program("measuring", monkeypatch)
    here = measuring.machine()
    monkeypatch.setattr(measuring, "machine", lambda: here | {"cpu": "A (R) CPU @ 2GHz", "cores": 2, "commit": "12+"})
    assert measuring.results_folder() == Path(f"benchmarks/results/{here['date']}-12+-a-r-cpu-2ghz-2-cores")
    monkeypatch.setattr(measuring, "ROOT", Path("/"))
    assert measuring.commit() is None
