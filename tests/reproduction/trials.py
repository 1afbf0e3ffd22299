"""The command in processes of its own, to be killed: one process imports everything once and forks each start of it.

``python trials.py STEPS.json`` does the steps in order and writes what came of each beside.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

ARM, TASK, SEEDS, EPOCHS = "ge", "clutter", 2, 4
TINY = ("--data.size=9", "--batch_size=1600", "--machine.accelerator=cpu")  # 8 steps an epoch
LIMIT = 200  # seconds that a step may take


def start(step):
    """The command with one network and tiny runs, one at a time; its exit code."""
    from aaconv.cli import main
    from aaconv.reproduction import reproduce as module
    from aaconv.reproduction.runs import Job, perform

    if step.get("plainly"):  # the first run alone, without processes
        perform(Path(step["folder"]), Job(TASK, ARM, 0), [*TINY, f"--epochs={EPOCHS}"])
        return 0
    module.ARMS = {ARM: module.ARMS[ARM]}
    module.estimate_seconds = lambda *arguments: 60.0
    module.reproduce = functools.partial(module.reproduce, overrides=TINY)
    options = ["--seeds", str(SEEDS), "--tasks", TASK, "--epochs", str(EPOCHS), "--workers", "1"]
    return main(["reproduce", "--out", step["folder"], *options])


def perform_step(step):
    """Fork a start, end it where the step says; its exit code, what it said, and which process trained."""
    began = time.time()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()  # a group of its own, as a terminal gives to a command
            with open(step["said"], "w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            code = start(step)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    worker = None
    if "kill" in step:
        run = Path(step["folder"]) / TASK / ARM / "seed0"
        holder = run / ".lock.holder"
        wait_for(lambda: is_newer(holder, began) and holder.read_text())
        worker = int(holder.read_text().split()[1])
        wait_for(lambda: is_newer(run / "last.ckpt", began))
        (os.killpg if step.get("group") else os.kill)(child, getattr(signal, step["kill"]))
    code = os.waitstatus_to_exitcode(waited(child))
    return {**step, "code": code, "worker": worker, **trace(Path(step["folder"]))}


def trace(folder):
    """What a start left behind."""
    import torch

    runs = folder / TASK / ARM
    try:
        step = torch.load(runs / "seed0" / "last.ckpt", weights_only=True)["global_step"]
    except (OSError, RuntimeError):  # of a process that goes on
        step = -1
    return {"step": step, "second": (runs / "seed1").exists(), "table": (folder / "results.csv").exists()}


def is_newer(path, began):
    return path.exists() and path.stat().st_mtime > began


def is_there(process):
    """Whether a process runs; one that nobody waits for stays in the table when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(reached):
    end = time.monotonic() + LIMIT
    while not reached() and time.monotonic() < end:
        time.sleep(0.02)


def waited(child):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # as many threads in the command's processes as here: equal to the bit
    from aaconv.reproduction import reproduce  # noqa: F401 (before the first fork)

    path = Path(sys.argv[1])
    steps = [perform_step(step) for step in json.loads(path.read_text())]
    for step in steps:
        step["left"] = step["worker"] is not None and is_there(step["worker"])
    path.with_suffix(".done").write_text(json.dumps(steps))
