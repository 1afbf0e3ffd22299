"""Processes that train, and save and end when the main process stops, in whatever way it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch

from aaconv._errors import Failed, Stopped
from aaconv._signals import handled

GOES_ON = "the same command goes on"
SIGNALS = (signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))  # clusters send these
REMIND_SECONDS = 0.2


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """``count`` processes; an error, Ctrl-C or a signal of ``SIGNALS`` here makes them save and end first.

    Raises:
        Stopped: A signal came.
        Failed: A process died.
    """
    # Fresh processes: a forked one could not use the threads that torch has started here.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, context, _begin, (count, ours))
    try:
        with handled(SIGNALS, _stop):
            _start(pool, count)
            yield pool
    except BaseException as error:
        theirs.close()
        if isinstance(error, BrokenProcessPool):
            advice = f"perhaps for lack of memory; {GOES_ON}; fewer --workers need less"
            raise Failed(f"a process that trains died, {advice}") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        theirs.close()
        ours.close()


def _start(pool: ProcessPoolExecutor, count: int) -> None:
    """Start every process, deaf to Ctrl-C, which a terminal sends to all of a group: the main process passes it on."""
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        for _ in range(count):
            pool.submit(os.getpid)
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(count: int, main: Connection) -> None:
    """Of each process: its share of the cores, and an eye on the main process."""
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    threading.Thread(target=_end_with, args=(main,), daemon=True).start()


def _end_with(main: Connection) -> NoReturn:
    """Wait until the main process is gone or has closed its end, then end: a run under way is saved first."""
    main.poll(None)  # nothing is ever sent
    while True:  # the first signal ends a run; one after it, this process
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(REMIND_SECONDS)


def _stop(number: int, frame: Any) -> NoReturn:
    raise Stopped(f"stopped by {signal.Signals(number).name}; runs under way are saved; {GOES_ON}")
