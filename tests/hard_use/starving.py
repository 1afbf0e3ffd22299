"""Commands on a machine that lacks something: one process imports everything once and forks each start of a command.

``python starving.py JOB.json`` starts each command of a job once with each fault and writes what was seen to JOB.done.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from tests.hard_use.killing import start, waited, warm

ROOM = 48 * 1024  # bytes of the small disk


def small_disk(out):
    """A file system of its own that is soon full."""
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(out)], check=True)


def short_files(out):
    """No file may grow."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def read_only(out):
    """A folder that takes no files, from its owner neither."""
    out.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:  # who may write whatever the folder's mode is
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(out)], check=True)
    else:
        out.chmod(0o500)


def file_in_the_way(out):
    """A file where the folder is to be."""
    out.write_text("a file")


def no_input(out):
    """Nothing to read from."""
    os.close(0)


def no_output(out):
    """Standard output is closed, as by ``>&-``, for Python too."""
    os.close(1)
    sys.stdout = None


def no_outputs(out):
    """So is the error stream."""
    no_output(out)
    os.close(2)
    sys.stderr = None


def full_output(out):
    """Standard output goes to a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def nobody_reads(out):
    """Standard output is a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)


def possible(folder):
    """Names of the faults that can be had here: two are mounts, for which the owner of the machine is needed."""
    if os.getuid():
        return [name for name in FAULTS if name != "small_disk"]
    tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False)
    if tried.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
        return list(FAULTS)
    return [name for name in FAULTS if name not in ("small_disk", "read_only")]


FAULTS = {
    fault.__name__: fault
    for fault in (
        small_disk,
        short_files,
        read_only,
        file_in_the_way,
        no_input,
        no_output,
        no_outputs,
        full_output,
        nobody_reads,
    )
}


def heard(row, inputs, out, fault):
    """The exit code of a command with a fault, and what it said: into a pipe, which no fault of the disk cuts."""
    reader, writer = os.pipe()

    def before():
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        fault(out)

    code = waited(start(row, inputs, out, before))
    os.close(writer)
    os.set_blocking(reader, False)  # what the command started may hold the other end yet
    with open(reader, "rb", buffering=0) as file:
        return code, (file.readall() or b"").decode(errors="replace")


def perform(job):
    """What came of every command with every fault: exit code, what it said, what is wrong with its files."""
    from tests.hard_use.commands import COMMANDS
    from tests.hard_use.whole import faults, unfinished

    found = []
    for name in job["names"]:
        for fault in job["faults"]:
            out = Path(job["folder"]) / f"{name} {fault}"
            code, said = heard(COMMANDS[name], job["inputs"], out, FAULTS[fault])
            wrong = faults(out) if out.is_dir() else []
            found.append(
                {
                    "name": name,
                    "fault": fault,
                    "code": code,
                    "said": said,
                    "wrong": wrong + [f"{rest} is left" for rest in unfinished(out) if not rest.endswith(".part")],
                }
            )
            if os.path.ismount(out):
                subprocess.run(["umount", str(out)], check=True)
    return found


if __name__ == "__main__":
    warm()
    for path in sys.argv[1:]:
        Path(path).with_suffix(".done").write_text(json.dumps(perform(json.loads(Path(path).read_text()))))
