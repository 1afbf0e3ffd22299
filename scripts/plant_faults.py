"""Plant the faults of faults.yaml one at a time in a copy of the tree, and see whether the tests notice.

    python scripts/plant_faults.py [--only TEXT] [--json FILE]

The whole table takes half an hour and more. Exits 1 if fewer than 90% of the faults are caught, if a row does
not apply to the sources any more, or if a test fails without any fault.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("faults.yaml")
SHARE = 0.9  # of the faults that must be caught
SECONDS = 600  # for the tests of one fault; what hangs is noticed too
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "dist", "_build", "jupyter_execute", "*.egg-info")
PRELOADED = ["hypothesis", "numba", "pytest", "torch._dynamo"]  # what takes long to import; further what tests need:
ROOMS = {"training": ["pytorch_lightning", "timm"], "test_surgery.py": ["timm"], "explain": ["pytorch_lightning"]}
TESTED = 10  # and pytest's status: exit status of a process that ran tests; what fails before exits with 1
OUTCOMES = {TESTED: "survived", TESTED + 1: "caught"}  # others mean that tests could not even be collected
CAUGHT = ("caught", "hung", "crashed")


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    file: str  # in src/aaconv
    old: str
    new: str
    tests: tuple[str, ...]  # in tests, as pytest takes them
    survives: str = ""  # why no test can tell, where that is so

    def mistake(self, root: Path) -> str:
        """Why the row does not apply to the tree under ``root``; empty if it does."""
        source = root / "src" / "aaconv" / self.file
        if not source.is_file():
            return f"{self.file} does not exist"
        count = source.read_text(encoding="utf-8").count(self.old)
        if count != 1:
            return f"{self.old!r} stands {count} times in {self.file}, not once"
        lacking = [test for test in self.tests if not _stands(root / "tests", test)]
        return f"no tests {', '.join(lacking)}" if lacking or not self.tests else ""


def _stands(folder: Path, test: str) -> bool:
    """Whether a file of tests is there and holds the test of the name, if one is given."""
    file, _, name = test.partition("::")
    path, function = folder / file, name.partition("[")[0]
    return path.is_file() and (not name or f"def {function}(" in path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Result:
    """What the tests said of a fault: caught, survived, hung, crashed or errored."""

    name: str
    file: str
    outcome: str
    seconds: float
    first: str  # test that failed first
    survives: str


def read_table(path: Path = TABLE) -> list[Fault]:
    """The faults of a table; ValueError for names given twice."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    faults = [Fault(**{**row, "tests": tuple(row["tests"])}) for row in rows]
    twice = [name for name, count in Counter(fault.name for fault in faults).items() if count > 1]
    if twice:
        raise ValueError(f"{path.name}: faults must have names of their own, twice: {', '.join(twice)}")
    return faults


class Copy:
    """A copy of the tree under ``folder`` whose package is the one that its tests import.

    Tests run in forks of a process that has imported what takes long, but nothing of the package.
    """

    def __init__(self, folder: Path, root: Path = ROOT, preloaded: Sequence[str] = ()):
        self.root, self.log = folder / "tree", folder / "log"
        shutil.copytree(root, self.root, ignore=LEFT_OUT)
        # Nothing compiled before may hide a fault: neither Python's nor Numba's files are shared with other trees,
        # and Python's, which are told apart by a second and a size, are not written.
        own = {"PYTHONPATH": str(self.root / "src"), "NUMBA_CACHE_DIR": str(folder / "numba")}
        os.environ.update(own, PYTHONDONTWRITEBYTECODE="1")
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([*preloaded])

    def test(self, tests: Sequence[str], patience: int = 1) -> tuple[str, str]:
        """Run tests until one fails: the outcome, and the test that failed or what else is wrong."""
        process = self._forks.Process(target=_run_tests, args=(self.root, self.log, list(tests)))
        process.start()
        process.join(seconds := patience * SECONDS)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)  # with the processes that tests started
            return "hung", f"after {seconds} s"
        said = self.log.read_text(encoding="utf-8", errors="replace")
        outcome = OUTCOMES.get(process.exitcode, "crashed" if process.exitcode < 0 else "errored")
        failed = [line.split()[1] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return outcome, said[-2000:] if outcome == "errored" else "".join(failed[:1])

    def plant(self, fault: Fault) -> Result:
        """Put the fault in, run its tests, take it out."""
        source = self.root / "src" / "aaconv" / fault.file
        sound, start = source.read_text(encoding="utf-8"), time.perf_counter()
        source.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
        try:
            outcome, first = self.test(fault.tests)
        finally:
            source.write_text(sound, encoding="utf-8")
        return Result(fault.name, fault.file, outcome, time.perf_counter() - start, first, fault.survives)


def _run_tests(root: Path, log: Path, tests: Sequence[str]) -> None:
    """In a process of its own: run the tests of the copy, its output into ``log``, and exit with pytest's status."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the system's own again, not how this process was started
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(root)
    sys.path[:0] = [str(root / "src"), str(root)]  # for processes that tests start, PYTHONPATH says it
    import pytest

    import aaconv

    if Path(aaconv.__file__) != root / "src" / "aaconv" / "__init__.py":
        raise RuntimeError(f"the tests would import {aaconv.__file__}, not the copy in {root}")
    options = ("-x", "-q", "-p", "no:cacheprovider", "--tb=short", "--durations=0")
    sys.exit(TESTED + pytest.main([*options, *(f"tests/{test}" for test in tests)]))


def caught(results: Sequence[Result]) -> float:
    """Share of the faults that tests noticed, without those that none can notice."""
    counted = [result for result in results if not (result.survives and result.outcome == "survived")]
    return sum(result.outcome in CAUGHT for result in counted) / max(1, len(counted))


def run(faults: Sequence[Fault]) -> list[Result]:
    """Plant all, with a line for each as it goes; ValueError if a test fails without a fault."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tests = sorted({test for fault in faults for test in fault.tests})
        needed = [name for room, names in ROOMS.items() for name in names if any(t.startswith(room) for t in tests)]
        copy = Copy(Path(folder), preloaded=[*PRELOADED, *needed])
        outcome, first = copy.test(tests, patience=4)
        if outcome != "survived":
            raise ValueError(f"without any fault the tests are not sound: {outcome}, {first}")
        for fault in faults:
            result = copy.plant(fault)
            results.append(result)
            seen = result.first.removeprefix("tests/") or result.survives
            print(f"{result.outcome:8}  {result.seconds:4.0f} s  {fault.file}: {fault.name}  {seen}", flush=True)
    return results


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="faults with TEXT in their name or file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    given = parser.parse_args(words)
    faults = [fault for fault in read_table() if given.only in f"{fault.file}: {fault.name}"]
    mistakes = [f"{fault.name}: {mistake}" for fault in faults if (mistake := fault.mistake(ROOT))]
    if mistakes or not faults:
        print("\n".join(mistakes) or f"no fault has {given.only!r} in its name or file", file=sys.stderr)
        return 1
    try:
        results = run(faults)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    counts = Counter(result.outcome for result in results)
    print(f"{', '.join(f'{count} {name}' for name, count in counts.items())}: {caught(results):.1%} caught")
    return int(caught(results) < SHARE or "errored" in counts)


if __name__ == "__main__":
    sys.exit(main())
