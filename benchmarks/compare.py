"""Two sets of results side by side: ratios, and which changes are beyond the noise; or many sets as a picture.

Run: python benchmarks/compare.py BEFORE AFTER [--plot FILE]     JSON files or folders of them
     python benchmarks/compare.py --run REV REV [--rounds 5] [--benchmark attention] [--plot FILE] [-- OPTION ...]

--run measures two commits now: this tree's benchmark on the sources of each, taking turns, a fresh process each time.
Whatever else the machine does meets both, so that this tells more than two sets measured on different days.

A change counts when no repeat of one side lies among those of the other and medians differ by more than 2%. With 5
repeats a side that happens by chance once in 126 cases; with fewer than 4 nothing is said.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from aaconv._files import write_whole

ROOT = Path(__file__).resolve().parents[1]
CASE = ("pair", "name", "mode", "input", "batch", "workers", "shape", "edge")  # what tells rows apart
RATES = ("images/s",)  # units of which more is better
FEWEST, LEAST = 4, 0.02  # repeats a side; share of the median
Case = tuple[str, str, str]  # benchmark, what was measured, unit


@dataclass
class Results:
    """Repeats of each case, and where they were measured."""

    title: str
    values: dict[Case, list[float]] = field(default_factory=dict)
    machines: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0  # rows in another form than one value with a unit


def main() -> int:
    options = _options()
    if options.run:
        sets = run_both(options.run, options.benchmark, options.rounds, options.more)
    else:
        sets = [read(path) for path in options.results]
    for line in differences(sets):
        print(f"measured differently: {line}; ratios are not of the code alone")
    if len(sets) == 2:
        print("\n".join(table(*sets)))
    for found in sets:
        if found.skipped:
            print(f"{found.title}: {found.skipped} rows without one value were left out")
    if options.plot:
        write_whole(options.plot, lambda beside: plot(sets).savefig(beside, format="png", dpi=120))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS", help="JSON files, or folders of them")
    parser.add_argument("--run", nargs=2, metavar="REV", help="measure these two commits now")
    parser.add_argument("--benchmark", default="attention", choices=("attention", "layer", "networks", "pipeline"))
    parser.add_argument("--rounds", type=int, default=5, help="processes of each commit")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (PNG) there")
    words = [*sys.argv[1:], "--"]
    options = parser.parse_args(words[: words.index("--")])
    options.more = words[words.index("--") + 1 : -1]
    if bool(options.run) == bool(options.results):
        parser.error("give either results or --run REV REV")
    if not options.run and len(options.results) != 2 and not options.plot:
        parser.error(f"a table needs two results, got {len(options.results)}; --plot takes any number")
    if missing := [str(path) for path in options.results if not path.exists()]:
        parser.error(f"no results at {', '.join(missing)}")
    return options


def read(path: Path) -> Results:
    """A file of results, or all files of a folder.

    Raises:
        ValueError: There is none, or one is not a benchmark's.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no *.json in {path}")
    found = Results(path.stem if path.is_file() else path.name)
    for file in files:
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            add(found, file.stem, report)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not what a benchmark writes: {error}") from error
    return found


def add(found: Results, benchmark: str, report: dict[str, Any], once: bool = False) -> None:
    """Put a report's rows to ``found``; ``once``: of each row its median alone, for processes that are repeats."""
    found.machines.append(report["machine"] | {key: report[key] for key in ("dtype", "tf32") if key in report})
    for row in report["rows"]:
        if "value" not in row or "unit" not in row:
            found.skipped += 1
            continue
        what = ", ".join(_word(key, row[key]) for key in CASE if key in row)
        repeats = [row["value"]] if once else row.get("all", [row["value"]])
        found.values.setdefault((benchmark, what, row["unit"]), []).extend(map(float, repeats))


def _word(key: str, value: Any) -> str:
    if key in ("batch", "workers", "edge"):
        return f"{key} {value}"
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def differences(sets: Sequence[Results]) -> list[str]:
    """Of hardware and versions between sets."""
    keys = dict.fromkeys(key for found in sets for machine in found.machines for key in machine)
    lines = []
    for key in keys:
        seen = dict.fromkeys(str(machine.get(key)) for found in sets for machine in found.machines)
        if len(seen) > 1 and key not in ("commit", "date"):
            lines.append(f"{key} {' and '.join(seen)}")
    return lines


def table(before: Results, after: Results) -> list[str]:
    """A line a case that both have, in Markdown."""
    lines = [f"| benchmark | case | unit | {before.title} | {after.title} | ratio | |", "|---" * 7 + "|"]
    for case in (case for case in before.values if case in after.values):
        old, new = before.values[case], after.values[case]
        middle, now = statistics.median(old), statistics.median(new)
        ratio = f"{now / middle:.3f}" if middle else ""
        lines.append(f"| {' | '.join(case)} | {middle:.4g} | {now:.4g} | {ratio} | {verdict(old, new, case[2])} |")
    alone = len(set(before.values) ^ set(after.values))
    return lines + ([f"{alone} cases are in one set alone"] if alone else [])


def verdict(old: Sequence[float], new: Sequence[float], unit: str) -> str:
    """Better, worse, nothing where the change is within the noise, or that there are too few repeats to say."""
    if min(len(old), len(new)) < FEWEST:
        return "too few repeats"
    middle, now = statistics.median(old), statistics.median(new)
    apart = max(old) < min(new) or max(new) < min(old)
    if not apart or abs(now - middle) <= LEAST * abs(middle):
        return ""
    return "better" if (now > middle) == (unit in RATES) else "WORSE"


def run_both(revisions: Sequence[str], benchmark: str, rounds: int, more: Sequence[str]) -> list[Results]:
    """Results of both commits, measured in turns."""
    with tempfile.TemporaryDirectory(prefix="aaconv-compare-") as name:
        trees = {revision: Path(name) / str(place) for place, revision in enumerate(revisions)}
        sets = {revision: Results(revision) for revision in revisions}
        if len(trees) < 2:
            raise ValueError(f"--run takes two different commits, got {revisions[0]} twice")
        try:
            for revision, tree in trees.items():
                _git("worktree", "add", "--quiet", "--detach", str(tree), revision)
                expect_sources(tree)
            for turn in range(rounds):
                for revision, tree in list(trees.items())[:: 1 if turn % 2 else -1]:  # neither is always first
                    report = measure(tree, benchmark, more, Path(name) / "out")
                    add(sets[revision], benchmark, report, once=True)
                    print(f"round {turn + 1} of {rounds}: {revision} measured", file=sys.stderr)
        finally:
            for tree in filter(Path.exists, trees.values()):
                _git("worktree", "remove", "--force", str(tree))
    return list(sets.values())


def expect_sources(tree: Path) -> None:
    """Raise ValueError unless a process that is told so takes the sources in ``tree`` and not those installed."""
    command = [sys.executable, "-c", "import aaconv; print(aaconv.__file__)"]
    found = subprocess.run(command, env=_sources(tree), capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_relative_to(tree.resolve()):
        raise ValueError(f"the sources in {tree} are not taken, but {found}")


def _sources(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree / "src")}


def measure(tree: Path, benchmark: str, more: Sequence[str], out: Path) -> dict[str, Any]:
    """What this tree's benchmark writes of the sources in ``tree``."""
    script = Path(__file__).with_name(f"{benchmark}.py")
    command = [sys.executable, str(script), *more, "--out", str(out)]
    done = subprocess.run(command, env=_sources(tree), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)} on {tree / 'src'} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads((out / f"{benchmark}.json").read_text(encoding="utf-8"))


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {' '.join(words)}: {done.stderr.strip()}")


def plot(sets: Sequence[Results]) -> Figure:
    """A panel a benchmark and unit, a line a case, a colour a set: medians, and bars from least to most."""
    panels: dict[tuple[str, str], list[Case]] = {}
    for case in dict.fromkeys(case for found in sets for case in found.values):
        panels.setdefault((case[0], case[2]), []).append(case)
    heights = [len(cases) + 2 for cases in panels.values()]
    figure = Figure(figsize=(10, 0.22 * sum(heights) + 0.6), layout="constrained")
    axes_of = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((benchmark, unit), cases) in zip(axes_of, panels.items(), strict=True):
        for place, found in enumerate(sets):
            rows = [(row, found.values[case]) for row, case in enumerate(cases) if case in found.values]
            middles = [statistics.median(values) for _, values in rows]
            spread = [[m - min(v) for (_, v), m in zip(rows, middles, strict=True)]]
            spread += [[max(v) - m for (_, v), m in zip(rows, middles, strict=True)]]
            shifted = [row + 0.25 * place / len(sets) for row, _ in rows]
            axes.errorbar(middles, shifted, xerr=spread, fmt="o", markersize=3, linewidth=1, label=found.title)
        axes.set_yticks(range(len(cases)), [case[1] for case in cases], fontsize=7)
        axes.set(xscale="log", xlabel=unit, title=benchmark)
        axes.invert_yaxis()
    axes_of[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"compare: {error}")
