"""Comparing results: made by hand, so that what must be flagged is known."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

MACHINE = {"cpu": "a", "cores": 2, "torch": "2.15.0", "commit": "0", "date": "2026-11-01"}
STEADY = [10.0, 10.1, 10.2, 10.3, 10.4]


@pytest.fixture
def compare(load):
    """The program."""
    return load("compare")


def row(name, repeats, unit="ms", **more):
    return {"name": name, "shape": [1, 2, 3], "unit": unit, "value": sorted(repeats)[len(repeats) // 2]} | (
        {"all": repeats, **more}
    )


def write(folder, name, *rows, benchmark="attention", **machine):
    path = folder / name / f"{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": {**MACHINE, **machine}, "rows": rows}))
    return path


def run(compare, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
    return compare.main()


@pytest.mark.parametrize(
    "after, unit, wanted",
    [
        ([time * 1.2 for time in STEADY], "ms", "WORSE"),
        ([time * 0.8 for time in STEADY], "ms", "better"),
        ([time * 1.2 for time in STEADY], "images/s", "better"),
        ([time * 0.8 for time in STEADY], "images/s", "WORSE"),
        ([10.4, 11.0, 11.5, 12.0, 12.5], "ms", ""),  # touches what was before
        ([time + 0.5 for time in STEADY], "ms", "WORSE"),
        ([10.41] * 5, "ms", "WORSE"),
        (STEADY[::-1], "ms", ""),
        ([20.0] * 3, "ms", "too few repeats"),
    ],
)
def test_changes_beyond_the_noise_are_flagged(compare, after, unit, wanted):
    assert compare.verdict(STEADY, after, unit) == wanted


def test_small_changes_do_not_count_however_steady(compare):
    assert compare.verdict([10.0] * 5, [10.1] * 5, "ms") == ""


def test_table_of_two_files(compare, monkeypatch, tmp_path, capsys):
    before = write(
        tmp_path, "old", row("cpu", STEADY), row("folded", STEADY), row("gone", STEADY), {"name": "no value"}
    )
    after = write(tmp_path, "new", row("cpu", [2 * time for time in STEADY]), row("folded", STEADY))
    assert run(compare, monkeypatch, before.parent, after) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| attention | cpu, 1x2x3 | ms | 10.2 | 20.4 | 2.000 | WORSE |" in lines
    assert "| attention | folded, 1x2x3 | ms | 10.2 | 10.2 | 1.000 |  |" in lines
    assert "1 cases are in one set alone" in lines
    assert "old: 1 rows without one value were left out" in lines
    assert not any(line.startswith("measured differently") for line in lines)


def test_other_machines_are_said(compare, monkeypatch, tmp_path, capsys):
    before = write(tmp_path, "old", row("cpu", STEADY))
    after = write(tmp_path, "new", row("cpu", STEADY), cpu="b", commit="1", date="2026-12-01")
    assert run(compare, monkeypatch, before, after) == 0
    assert "measured differently: cpu a and b; ratios are not of the code alone" in capsys.readouterr().out


def test_equal_names_of_two_pairs_stay_apart(compare, tmp_path):
    pairs = [row("resnet50", STEADY, pair=f"{name} / resnet50") for name in ("aa_resnet50", "aa_resnet50_r100")]
    assert len(compare.read(write(tmp_path, "set", *pairs, benchmark="networks")).values) == 2


def test_picture_of_many_sets(compare, monkeypatch, tmp_path):
    sets = [write(tmp_path, str(place), row("cpu", STEADY), row("m", [3.0], "MiB")) for place in range(3)]
    write(tmp_path, "0", row("layer", STEADY), benchmark="layer")
    picture = tmp_path / "picture.png"
    assert run(compare, monkeypatch, sets[0].parent, *sets[1:], "--plot", picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    panels = compare.plot([compare.read(path) for path in (sets[0].parent, *sets[1:])]).axes
    assert [(axes.get_title(), axes.get_xlabel()) for axes in panels] == [
        ("attention", "ms"),
        ("attention", "MiB"),
        ("layer", "ms"),
    ]
    assert [len(axes.containers) for axes in panels] == [3, 3, 3]


@pytest.mark.parametrize(
    "text, message", [("{", "is not what a benchmark writes"), ("{}", "writes: 'machine'"), ("[]", "is not what")]
)
def test_other_files_are_refused(compare, tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        compare.read(tmp_path)


def test_empty_folder_is_refused(compare, tmp_path):
    with pytest.raises(ValueError, match=r"no \*\.json in"):
        compare.read(tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give either results or --run REV REV"),
        (["a.json", "--run", "a", "b"], "give either results or --run REV REV"),
        (["."], "a table needs two results, got 1"),
        ([".", "nowhere"], "no results at nowhere"),
    ],
)
def test_bad_arguments_are_named(compare, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(compare, monkeypatch, *arguments)
    assert message in capsys.readouterr().err


@pytest.fixture
def repository(compare, monkeypatch, tmp_path):
    """Two commits whose 'benchmark' tells the number that the sources hold."""
    root = tmp_path / "repository"
    (root / "src/aaconv").mkdir(parents=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(root)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for number in (1, 2):
        (root / "src/aaconv/__init__.py").write_text(f"NUMBER = {number}\n")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", str(number)], check=True)
    (tmp_path / "attention.py").write_text(
        "import aaconv, json, pathlib, sys\n"
        "*more, _, out = sys.argv[1:]\n"
        "pathlib.Path(out).mkdir(exist_ok=True)\n"
        "rows = [{'name': ' '.join(more), 'unit': 'ms', 'value': aaconv.NUMBER, 'all': [9, 9]}]\n"
        "(pathlib.Path(out) / 'attention.json').write_text(json.dumps({'machine': {}, 'rows': rows}))\n"
    )
    monkeypatch.setattr(compare, "ROOT", root)
    monkeypatch.setattr(compare, "__file__", str(tmp_path / "compare.py"))
    return root


def test_two_commits_run_in_turns(compare, monkeypatch, repository, capsys):
    assert run(compare, monkeypatch, "--run", "HEAD~1", "HEAD", "--rounds", "4", "--", "--only", "cpu") == 0
    shown = capsys.readouterr()
    assert "| attention | --only cpu | ms | 1 | 2 | 2.000 | WORSE |" in shown.out
    order = [line.split(": ")[1] for line in shown.err.splitlines()]
    assert order == [f"{name} measured" for name in ("HEAD", "HEAD~1", "HEAD~1", "HEAD") * 2]
    trees = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1


def test_unknown_commits_and_failing_benchmarks_are_said(compare, repository):
    with pytest.raises(ValueError, match=r"git worktree add .* invalid reference: nothing"):
        compare.run_both(["HEAD", "nothing"], "attention", 1, [])
    with pytest.raises(ValueError, match="takes two different commits, got HEAD twice"):
        compare.run_both(["HEAD", "HEAD"], "attention", 1, [])
    Path(compare.__file__).with_name("attention.py").write_text("raise SystemExit('no kernel')")
    with pytest.raises(ValueError, match="ended with 1: no kernel"):
        compare.run_both(["HEAD~1", "HEAD"], "attention", 1, [])
    trees = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1
