"""Threads for kernels that run without Python's lock: as many as ``torch.get_num_threads()``, safe after a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def run_shares(work: Callable[[int, int], None], count: int, shares: int) -> None:
    """Call ``work(start, stop)`` on ``shares`` contiguous ranges of ``range(count)``, side by side.

    The ranges depend on the arguments alone, not on timing. The calling thread takes the first one itself.
    """
    shares = max(1, min(shares, count))
    cuts = [count * i // shares for i in range(shares + 1)]
    threads = torch.get_num_threads()
    if shares == 1 or threads == 1:
        for start, stop in pairwise(cuts):
            work(start, stop)
        return
    pool = _pool_of(threads - 1)
    others = [pool.submit(work, start, stop) for start, stop in pairwise(cuts[1:])]
    try:
        work(cuts[0], cuts[1])
    finally:
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
    """In a forked child the pool's threads do not exist, and its lock may be held for ever."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
