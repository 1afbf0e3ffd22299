"""Signals are handled for a while, and as before afterwards."""

import os
import signal
import threading

import pytest

from aaconv._signals import handled

NUMBERS = (signal.SIGTERM, signal.SIGUSR1)


def handlers():
    return [signal.getsignal(number) for number in NUMBERS]


def test_handled_meanwhile_and_as_before_after_an_error():
    came, before = [], handlers()

    def work():
        for number in NUMBERS:
            os.kill(os.getpid(), number)
        raise KeyError

    with pytest.raises(KeyError), handled(NUMBERS, lambda number, frame: came.append(number)):
        work()
    assert came == [*NUMBERS]
    assert handlers() == before


def test_other_threads_leave_signals_alone():
    found, before = [], handlers()

    def work():
        with handled(NUMBERS, print):
            found.extend(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == before
