"""Processes that train end with the main process, whatever ends it."""

import contextlib
import os
import signal
import time
from concurrent.futures import wait
from pathlib import Path

import pytest
import torch

from aaconv._errors import Failed, Stopped
from aaconv.reproduction.workers import worker_pool

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def is_there(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_signals_end_work_and_processes():
    before = [signal.getsignal(number) for number in SIGNALS]
    with (  # noqa: PT012
        pytest.raises(Stopped, match="stopped by SIGTERM; runs under way are saved; the same command goes on"),
        worker_pool(2) as pool,
    ):
        processes = list(pool._processes)
        assert len(processes) == 2
        assert pool.submit(torch.get_num_threads).result() == max(1, torch.get_num_threads() // 2)
        # Ctrl-C reaches every process of a terminal: these leave it to the main one.
        assert signal.SIGINT in pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        waiting = pool.submit(time.sleep, 300)
        os.kill(os.getpid(), signal.SIGTERM)
        wait([waiting])
    assert not any(map(is_there, processes))
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_process_that_dies_is_told():
    told = "a process that trains died, perhaps for lack of memory; the same command goes on"
    with pytest.raises(Failed, match=told), worker_pool(1) as pool:
        pool.submit(signal.raise_signal, signal.SIGKILL).result()
