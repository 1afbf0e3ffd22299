"""Commands in processes that are killed: one process imports everything once and forks each start of a command.

``python killing.py JOB.json`` kills a command again and again and writes what was seen to JOB.done. Half of the kills
come at any moment of its life, half at a moment that follows one of its steps in the file system (opening a file to
write, renaming, removing), by up to three milliseconds.
"""

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

CHAIN = 5  # kills before a command may end; the folder is then laid anew
LIMIT = 300  # seconds that a start may take
STEPS = ("os.mkdir", "os.remove", "os.rename", "os.rmdir")


def watch(out, act):
    """Let ``act(event, path)`` see every step in the file system below ``out``."""
    below = str(out)

    def hook(event, arguments):
        if event != "open" and event not in STEPS:
            return
        path = str(arguments[0])
        if not path.startswith(below):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        act(event, str(arguments[1]) if event == "os.rename" else path)

    sys.addaudithook(hook)


def die_at(out, step, delay):
    """End this process abruptly, ``delay`` seconds after its ``step``-th step in the file system."""
    seen = 0

    def act(event, path):
        nonlocal seen
        seen += 1
        if seen == step:  # by the kernel, whatever holds Python's lock: the signal has no handler
            signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))

    watch(out, act)


def note_steps(out, log):
    """Write the steps in the file system to ``log``."""
    file = open(log, "a")  # noqa: SIM115 (until the process ends)
    watch(out, lambda event, path: print(event, path, file=file, flush=True))


def note_modules(folder):
    """What a command has imported, for the starts after it."""
    (folder / "modules").write_text("\n".join(sys.modules))


def import_noted(folder):
    for name in (folder / "modules").read_text().splitlines():
        if name not in sys.modules and name != "__mp_main__":
            with contextlib.suppress(Exception):  # some are no modules that stand alone
                importlib.import_module(name)


def start(row, inputs, out, before=lambda: None, after=lambda: None):
    """Fork a start of a command."""
    from tests.hard_use.commands import run

    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        said = os.open(f"{out}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        before()
        code = run(row, inputs, out)
        after()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)


def waited(child, seconds=LIMIT):
    """Wait for a process, at most ``seconds``, then kill it and all that it started; its exit code."""
    killer = threading.Timer(seconds, os.killpg, (child, signal.SIGKILL))
    killer.start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    killer.cancel()
    return code


def perform(job):
    """Kill a command ``job["kills"]`` times; what was seen."""
    from tests.hard_use.commands import COMMANDS
    from tests.hard_use.whole import faults, names, unfinished

    row, inputs, folder = COMMANDS[job["name"]], job["inputs"], Path(job["folder"])
    chance, whole, out, log = random.Random(job["seed"]), folder / "whole", folder / "cut", folder / "steps"
    code = waited(start(row, inputs, whole, lambda: note_steps(whole, log), lambda: note_modules(folder)))
    if code:
        said = Path(f"{whole}.said").read_text()
        return {"failed": [f"uncut: {code}: {said}"[-3000:]], "kills": 0, "steps": []}
    import_noted(folder)
    steps = log.read_text().splitlines()
    failed, kills, ended, left = faults(whole), 0, 0, 0
    began = time.monotonic()
    if job["kills"]:
        failed += complete(row, inputs, out, names(whole))
    life = time.monotonic() - began
    while kills < job["kills"]:
        if kills % 2:
            step, delay = chance.randint(1, len(steps)), chance.uniform(0, 0.003)
            code = waited(start(row, inputs, out, lambda s=step, d=delay: die_at(out, s, d)))
        else:
            child = start(row, inputs, out)
            code = waited(child, chance.uniform(0, life))
        failed += [f"after kill {kills}: {fault}" for fault in faults(out)]
        left += bool(unfinished(out))
        if code < 0:
            kills += 1
        elif code > 0:
            failed.append(f"start after {kills} kills: {code}: {Path(f'{out}.said').read_text()}"[-2000:])
            kills += 1
        else:
            ended += 1
            shutil.rmtree(out)
        if out.exists() and kills % CHAIN == 0 and code < 0:
            failed += complete(row, inputs, out, names(whole))
    return {"failed": failed, "kills": kills, "ended": ended, "left": left, "life": life, "steps": steps}


def complete(row, inputs, out, expected):
    """Let the command end; what is wrong then."""
    from tests.hard_use.whole import faults, names, unfinished

    code = waited(start(row, inputs, out))
    failed = [f"when let alone: {fault}" for fault in faults(out)]
    if code:
        failed.append(f"when let alone: {code}: {Path(f'{out}.said').read_text()}"[-2000:])
    elif names(out) != expected:
        failed.append(f"when let alone: files {sorted(set(names(out)) ^ set(expected))} differ")
    failed += [f"when let alone: {name} is left" for name in unfinished(out)]
    shutil.rmtree(out)
    return failed


def warm():
    """Import and compile what starts of commands would."""
    from tests.hard_use.commands import MODULES, SCRIPTS

    sys.path.insert(0, str(SCRIPTS))
    for name in (*MODULES, "make_gallery", "make_checkpoints"):
        importlib.import_module(name)
    from aaconv.ops import cpu_kernels

    for kernel in (cpu_kernels.forward, cpu_kernels.backward):
        cpu_kernels.compiled(kernel, 32)


if __name__ == "__main__":
    warm()
    for path in sys.argv[1:]:
        found = perform(json.loads(Path(path).read_text()))
        Path(path).with_suffix(".done").write_text(json.dumps(found))
