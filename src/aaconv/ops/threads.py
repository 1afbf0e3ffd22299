"""Threads for kernels that run without Python's lock: as many as ``torch.get_num_threads()``, safe after a fork.

Where torch runs on GNU OpenMP the work goes to its own team: after a parallel operator of torch's those threads spin
for milliseconds, and threads of ours would have to share the cores with them. Elsewhere, and in a forked child, whose
team does not exist, a pool of ours does the work.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

_Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked = False
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def run_shares(work: Callable[[int, int], None], count: int, shares: int) -> None:
    """Call ``work(start, stop)`` on ``shares`` contiguous ranges of ``range(count)``, side by side.

    The ranges depend on the arguments alone, not on timing; whichever thread is free, the calling one too, takes the
    next. An error of one range is raised when all threads have stopped.
    """
    shares = max(1, min(shares, count))
    left = deque(pairwise([count * i // shares for i in range(shares + 1)]))
    errors: list[BaseException] = []

    def take(_: Any = None) -> None:
        while not errors:
            try:
                start, stop = left.popleft()
            except IndexError:  # asking first whether one is left would be too early an answer
                return
            try:
                work(start, stop)
            except BaseException as error:  # a thread of the team's could not raise it
                errors.append(error)

    threads = min(torch.get_num_threads(), shares)
    if threads == 1:
        take()
    elif (team := _team_of_torch()) and not _forked:
        team(_Task(take), None, threads, 0)
    else:
        _in_pool(take, threads)
    if errors:
        raise errors[0]


@cache
def _team_of_torch() -> Callable[..., None] | None:
    """``GOMP_parallel(task, data, threads, flags)`` of the library that torch's operators run on, if it is that one."""
    folder = Path(torch.__file__).parent
    for path in [*folder.glob("lib/libgomp*"), *folder.with_name("torch.libs").glob("libgomp*")]:
        try:
            team = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD).GOMP_parallel
        except (OSError, AttributeError):  # not the one in use
            continue
        team.argtypes, team.restype = [_Task, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return team
    return None


def _in_pool(take: Callable[[], None], threads: int) -> None:
    others = [_pool_of(threads - 1).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


def _pool_of(size: int) -> ThreadPoolExecutor:
    """The pool, remade when the number of threads has changed; a replaced one ends when its work is done."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size != size:
            _pool, _pool_size = ThreadPoolExecutor(size, thread_name_prefix="aaconv"), size
        return _pool


def _forget() -> None:
    """In a forked child neither threads exist, and the lock may be held for ever."""
    global _lock, _pool, _forked
    _lock, _pool, _forked = threading.Lock(), None, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
