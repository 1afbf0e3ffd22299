"""What the benchmarks share: the machine, peak memory of a fresh process, tables.

Run: python benchmarks/measuring.py    (prints the folder for a set of results of this commit on this machine)
"""

import multiprocessing
import os
import platform
import re
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
import torch

ROOT = Path(__file__).resolve().parents[1]


def machine(device: torch.device | None = None) -> dict[str, object]:
    """Hardware, versions and day that the figures belong to."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    versions = {"torch": torch.__version__, "numba": numba.__version__, "python": platform.python_version()}
    found = {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), **versions}
    found |= {"commit": commit(), "date": datetime.now(timezone.utc).date().isoformat()}
    if device is not None and device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "triton": version("triton")}
    return found


def commit() -> str | None:
    """Of this tree, with a plus if sources differ from it; None without git."""
    try:
        name, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short=9", "HEAD"], ["status", "--porcelain", "--", "src", "benchmarks/*.py"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name}+" if changed else name


def results_folder() -> Path:
    """Where a set of results of this commit on this machine belongs."""
    here = machine()
    cpu = re.sub(r"[^a-z0-9]+", "-", str(here["cpu"]).lower()).strip("-")
    return Path("benchmarks/results") / f"{here['date']}-{here['commit']}-{cpu}-{here['cores']}-cores"


def peak_memory(work: Callable[..., None], *arguments: Any) -> float:
    """MiB that a fresh process grows by while it does ``work``, a small call of the same kind done before."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_grow, args=(send, work, arguments))
    process.start()
    grown = receive.recv()
    process.join()
    return grown


def _grow(send: Any, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    *names, shape = arguments
    small = (1, 1, 8, 8, *shape[4:])
    work(*names, small)
    before = _peak()
    work(*names, shape)
    send.send((_peak() - before) / 1024)


def _peak() -> int:
    """KiB of this process at its largest. Linux hands ``ru_maxrss`` on from parent to child, so it is not used."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """A line a shape and mode, a column a contender."""
    if not rows:
        return []
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [f"| B, N, H, W, K, V | {rows[0]['unit']} | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for shape, mode in dict.fromkeys((row["shape"], row["mode"]) for row in rows):
        found = {row["name"]: row["value"] for row in rows if (row["shape"], row["mode"]) == (shape, mode)}
        cells = " | ".join(f"{found[name]:.1f}" if name in found else "" for name in names)
        lines.append(f"| {', '.join(map(str, shape))} | {mode} | {cells} |")
    return lines


if __name__ == "__main__":
    print(results_folder())
