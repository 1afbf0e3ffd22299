"""The benchmarks of layer and networks: every contender in what they write, each repeat kept."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("timm")


@pytest.fixture
def program(load, monkeypatch):
    """A program by its name, with its arguments."""

    def given(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--repeats", "2", *map(str, arguments)])
        return load(name)

    return given


def test_networks_in_pairs(program, tmp_path, capsys):
    pair = "aa_resnet10xs_r25,resnet10xs,2,16"
    assert program("networks", "--pair", pair, "--out", tmp_path).main() == 0
    rows = json.loads((tmp_path / "networks.json").read_text())["rows"]
    assert [(row["name"], row["mode"]) for row in rows] == [
        (name, mode) for mode in ("inference", "training") for name in ("aa_resnet10xs_r25", "resnet10xs")
    ]
    assert all(row["pair"] == "aa_resnet10xs_r25 / resnet10xs" and len(row["all"]) == 2 for row in rows)
    assert all(min(row["all"]) <= row["value"] <= max(row["all"]) for row in rows)
    first, second = rows[:2]
    assert f"{first['value'] / second['value']:6.2f} x" in capsys.readouterr().out


def test_layer(program, monkeypatch, tmp_path):
    layer = program("layer", "--out", tmp_path)
    monkeypatch.setattr(layer, "BATCH", 1)
    assert layer.main() == 0
    rows = json.loads((tmp_path / "layer.json").read_text())["rows"]
    assert [row["name"] for row in rows][:2] == ["3x3 convolution", "augmented, auto"]
    assert all(len(row["all"]) == 2 and row["value"] > 0 for row in rows)


def test_results_belong_to_a_commit_and_a_machine(program, monkeypatch):
    measuring = program("measuring")
    here = measuring.machine()
    monkeypatch.setattr(measuring, "machine", lambda: here | {"cpu": "A (R) CPU @ 2GHz", "cores": 2, "commit": "12+"})
    assert measuring.results_folder() == Path(f"benchmarks/results/{here['date']}-12+-a-r-cpu-2ghz-2-cores")
    monkeypatch.setattr(measuring, "ROOT", Path("/"))
    assert measuring.commit() is None
