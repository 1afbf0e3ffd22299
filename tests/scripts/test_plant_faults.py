"""The table of planted faults applies to the sources of today; the script tells what was noticed from what was not."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("yaml")

FOLDER = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(FOLDER))
script = importlib.import_module("plant_faults")
sys.path.remove(str(FOLDER))

FAULTS = script.read_table()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_row_applies(fault):
    assert fault.mistake(script.ROOT) == ""
    assert fault.old != fault.new


def test_every_room_has_its_faults():
    rooms = Counter(fault.file.partition("/")[0] for fault in FAULTS)
    assert all(rooms[room] >= 10 for room in ("ops", "nn", "surgery", "training"))
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)


def fault_of(**changes):
    usual = {"name": "two for one", "file": "sums.py", "old": "+ 1", "new": "+ 2", "tests": ("test_sums.py::test_one",)}
    return script.Fault(**{**usual, **changes})


@pytest.fixture
def tree(tmp_path):
    """A tree of one module whose test notices ``+ 2`` and not ``* 2``."""
    sums, tests = tmp_path / "tree" / "src" / "aaconv" / "sums.py", tmp_path / "tree" / "tests" / "test_sums.py"
    for path in (sums, tests):
        path.parent.mkdir(parents=True)
    sums.write_text("def more(x):\n    return (x + 1) * 1\n")
    sums.with_name("__init__.py").touch()
    tests.write_text("from aaconv.sums import more\n\n\ndef test_one():\n    assert more(0) == 1\n")
    return tmp_path / "tree"


MISTAKES = {
    "gone": ({"old": "+ 3"}, "'+ 3' stands 0 times in sums.py, not once"),
    "twice": ({"old": "1"}, "'1' stands 2 times in sums.py, not once"),
    "no source": ({"file": "ops/sums.py"}, "ops/sums.py does not exist"),
    "no file of tests": ({"tests": ("test_sums.py", "test_products.py")}, "no tests test_products.py"),
    "no test of the name": ({"tests": ("test_sums.py::test_two[3]",)}, "no tests test_sums.py::test_two[3]"),
    "no tests": ({"tests": ()}, "no tests "),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_rows_that_rot_are_named(tree, case):
    changes, message = MISTAKES[case]
    assert fault_of().mistake(tree) == ""
    assert fault_of(**changes).mistake(tree) == message


def test_names_given_twice_are_refused(tmp_path):
    row = {"name": "same", "file": "a.py", "old": "x", "new": "y", "tests": ["test_a.py"]}
    (tmp_path / "faults.yaml").write_text(json.dumps([row, row]))
    with pytest.raises(ValueError, match=r"faults must have names of their own, twice: same"):
        script.read_table(tmp_path / "faults.yaml")


def test_a_fault_is_planted_tested_and_taken_out(tree, tmp_path):
    """In a process of its own, since the copy changes where the package is imported from."""
    news = {
        "caught": "+ 2",
        "survived": "+ 1 * 1",
        "crashed": "+ __import__('os').abort()",
        "hung": "+ sum(iter(int, 1))",
    }
    code = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(FOLDER)!r})
import plant_faults as script
copy = script.Copy(Path({str(tmp_path / "copy")!r}), Path({str(tree)!r}))
outcomes = {{}}
assert copy.test(["test_sums.py"]) == ("survived", "")
for name, new in {news!r}.items():
    script.SECONDS = 2 if name == "hung" else 60
    fault = script.Fault("a fault", "sums.py", "+ 1", new, ("test_sums.py",))
    outcomes[name] = copy.plant(fault).outcome
script.SECONDS = 60
outcomes["errored"] = copy.plant(script.Fault("a fault", "sums.py", "def", "dfe", ("test_sums.py",))).outcome
print(json.dumps(outcomes))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes == {name: name for name in outcomes}
    assert len(outcomes) == 5
    source = Path("src", "aaconv", "sums.py")
    assert (tmp_path / "copy" / "tree" / source).read_text() == (tree / source).read_text()


def results_of(outcomes, survives=""):
    return [script.Result(f"{i}", "sums.py", outcome, 1.0, "", survives) for i, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    "outcomes, survives, share",
    [
        (["caught"] * 8 + ["hung", "crashed"], "", 1.0),
        (["caught"] * 8 + ["survived"] * 2, "", 0.8),
        (["caught", "survived"], "the same function", 1.0),
        (["errored", "caught"], "", 0.5),
    ],
)
def test_share_of_the_caught(outcomes, survives, share):
    results = results_of(outcomes[:-1]) + results_of(outcomes[-1:], survives)
    assert script.caught(results) == share


@pytest.mark.parametrize(
    "outcomes, status",
    [(["caught"] * 9 + ["survived"], 0), (["caught"] * 8 + ["survived"] * 2, 1), (["caught"] * 19 + ["errored"], 1)],
)
def test_exit_status(monkeypatch, tree, tmp_path, capsys, outcomes, status):
    monkeypatch.setattr(script, "ROOT", tree)
    monkeypatch.setattr(script, "read_table", lambda: [fault_of()])
    monkeypatch.setattr(script, "run", lambda faults: results_of(outcomes))
    assert script.main(["--json", str(tmp_path / "found.json")]) == status
    assert [row["outcome"] for row in json.loads((tmp_path / "found.json").read_text())] == outcomes
    assert f"{outcomes.count('caught')} caught" in capsys.readouterr().out


def test_what_stops_it(monkeypatch, tree, capsys):
    assert script.main(["--only", "no such fault"]) == 1
    assert "no fault has 'no such fault' in its name or file" in capsys.readouterr().err
    monkeypatch.setattr(script, "read_table", lambda: [fault_of()])
    assert script.main([]) == 1
    assert "two for one: sums.py does not exist" in capsys.readouterr().err

    def unsound(faults):
        raise ValueError("without any fault the tests are not sound")

    monkeypatch.setattr(script, "ROOT", tree)
    monkeypatch.setattr(script, "run", unsound)
    assert script.main([]) == 1
    assert "without any fault" in capsys.readouterr().err
