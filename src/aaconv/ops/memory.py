"""Refuse work that cannot fit before anything is allocated."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

UNASKED = 2**30  # bytes that are never refused; what is free is looked up for more alone, for that takes time
MEMINFO, PAGES = Path("/proc/meminfo"), Path("/proc/self/statm")
# Of a container: what it may take, what it takes, and the names of caches that it would give up.
CONTAINERS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def expect_memory(wanted: int, like: Tensor, what: str, remedy: str) -> None:
    """Raise ValueError when ``wanted`` bytes are more than the device of ``like`` could give now.

    Below ``UNASKED`` bytes nothing is refused, and nothing where no memory is taken: tensors without data.
    """
    if hasattr(like, "fake_mode"):  # says it is on the CPU, and its sizes may be symbols; its class is slow to import
        return
    if wanted <= UNASKED or (free := free_memory(like.device)) is None or wanted <= free:
        return
    raise ValueError(
        f"{what} would take about {wanted / 2**30:,.0f} GiB of memory beside its inputs, {like.device.type} has "
        f"{free / 2**30:,.1f} GiB to give; {remedy}"
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that could be had on the device; None where that is not known.

    Of a GPU it is all that it has, used or not: allocating too much there ends in an error and not, as on the CPU, in
    the end of the process.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu":
        return None
    known = [_of_the_machine(), _of_the_process(), *(_of_a_container(*paths) for paths in CONTAINERS)]
    return min((max(free, 0) for free in known if free is not None), default=None)


def _of_the_machine() -> int | None:
    """Free memory, caches that are given up, and free swap."""
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        return 1024 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree") if name in lines)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


def _of_the_process() -> int | None:
    """What is left of the address space that the process may have (``ulimit -v``)."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            return limit - int(PAGES.read_text().split()[0]) * resource.getpagesize()
    return None


def _of_a_container(limit: str, taken: str, caches: str) -> int | None:
    """What is left of the memory that the container may have."""
    with suppress(OSError, ValueError):
        most = int(Path(limit).read_text())  # or "max"
        held = dict(line.split() for line in Path(caches).read_text().splitlines())
        return most - int(Path(taken).read_text()) + int(held.get("inactive_file", 0))
    return None
