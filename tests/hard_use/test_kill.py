"""Commands that are killed at any moment leave nothing that is half-written, and end well when they are let."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aaconv._files import MARK
from tests.data.web import serving
from tests.hard_use.commands import ARCHIVE, COMMANDS, lay_inputs
from tests.hard_use.whole import is_growing

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("AACONV_KILLS", "5"))  # of each command


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    with serving() as server:
        server.content = ARCHIVE
        yield lay_inputs(tmp_path_factory.mktemp("inputs"), server.url.removesuffix("file.tar.gz"))


def killed(inputs, folder, names, kills=KILLS):
    """What was seen of each command, all in one process of their own."""
    paths = {}
    for number, name in enumerate(names):
        job = {"name": name, "kills": kills, "inputs": str(inputs), "seed": number}
        (folder / str(number)).mkdir()
        paths[name] = folder / f"{number}.json"
        paths[name].write_text(json.dumps({**job, "folder": str(folder / str(number))}))
    command = [sys.executable, "-m", "tests.hard_use.killing", *map(str, paths.values())]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: json.loads(path.with_suffix(".done").read_text()) for name, path in paths.items()}


def expect_sound(name, found):
    assert not found["failed"], f"{name}: " + "\n".join(found["failed"])
    written = {line.partition(" ")[2] for line in found["steps"] if line.startswith("open ")}
    straight = {path for path in written if MARK not in path and not is_growing(Path(path))}
    assert not straight, f"{name} writes these under their final names: {straight}"


@pytest.mark.hard
def test_killed_commands_leave_whole_files(inputs, tmp_path):
    found = killed(inputs, tmp_path, COMMANDS)
    for name, seen in found.items():
        life = f"{seen.get('life', 0):.1f} s, {len(seen.get('steps', ()))} steps"
        print(f"{name}: {life}; {seen['kills']} kills, {seen.get('left')} left something unfinished")
    for name, seen in found.items():
        expect_sound(name, seen)
        assert seen["kills"] >= KILLS
