"""Commands that lack something work, or say in one line what is wrong; no traceback, nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.web import serving
from tests.hard_use.commands import ARCHIVE, COMMANDS, lay_inputs
from tests.hard_use.starving import possible

ROOT = Path(__file__).parents[2]
NAMES = [name for name, row in COMMANDS.items() if not row.script]
NEEDED = {"short_files", "file_in_the_way"}  # without it no command can do its work


def starved(folder, names, faults):
    """What came of each command with each fault."""
    with serving() as server:
        server.content = ARCHIVE
        (folder / "inputs").mkdir()
        inputs = lay_inputs(folder / "inputs", server.url.removesuffix("file.tar.gz"))
        (folder / "outs").mkdir()
        job = {"names": names, "faults": faults, "inputs": str(inputs), "folder": str(folder / "outs")}
        (folder / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "tests.hard_use.starving", str(folder / "job.json")]
        quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "job.done").read_text())


def trouble(row):
    """What is wrong with an outcome, or nothing."""
    lines = [line for line in row["said"].splitlines() if line.startswith("aaconv: ")]
    found = list(row["wrong"])
    if row["code"] not in (0, 1, 2) or "Traceback" in row["said"] or "Exception ignored" in row["said"]:
        found.append(f"exit {row['code']}: {row['said'][-1500:]}")
    elif row["code"] and len(lines) != 1 and row["fault"] not in ("nobody_reads", "no_outputs"):
        found.append(f"exit {row['code']} with the lines {lines}")
    elif not row["code"] and row["fault"] in NEEDED:
        found.append("does as if all were well")
    return [f"{row['name']}, {row['fault']}: {text}" for text in found]


@pytest.mark.hard
def test_commands_on_machines_that_lack_something(tmp_path):
    rows = starved(tmp_path, NAMES, possible(tmp_path))
    for row in rows:
        print(row["name"], row["fault"], row["code"], row["said"].strip().splitlines()[-1:])
    assert not [text for row in rows for text in trouble(row)]
