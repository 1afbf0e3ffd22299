"""What the machine does to a run gets a plain sentence; mistakes and bugs come through as they are."""

import errno
import os
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils.data import get_worker_info

from aaconv._errors import Failed, Stopped
from aaconv.data.images import ImageReadError
from aaconv.data.splits import Split
from aaconv.training.failures import explained
from aaconv.training.run import train
from tests.training.test_run import recipe_of, tiny

CASES = {
    "memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        Failed,
        "memory does not suffice .*smaller batch_size",
    ),
    "disk": (
        OSError(errno.ENOSPC, "No space left on device"),
        Failed,
        r"^No space left on device \(in run\); make room",
    ),
    "peer": (torch.distributed.DistNetworkError("reset\nmore"), Failed, r"lost each other \(reset\); the same command"),
    "gloo": (RuntimeError("[pair.cc:525] Connection closed by peer [1.2.3.4]"), Failed, "another process of the run"),
    "reader": (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        Failed,
        "process that reads images",
    ),
    "stopped": (Stopped("by SIGTERM"), Stopped, "^by SIGTERM$"),
    "mistake": (ValueError("a must be b"), ValueError, "^a must be b$"),
    "missing": (FileNotFoundError("no file x"), FileNotFoundError, "^no file x$"),
    "bug": (RuntimeError("shapes differ"), RuntimeError, "^shapes differ$"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_gets_its_words(name, tmp_path):
    error, kind, message = CASES[name]
    with pytest.raises(kind, match=message) as raised, explained("run"):
        raise error
    assert type(raised.value) is kind


@dataclass(frozen=True)
class Unlucky(Split):
    """Images whose reader meets with something."""

    fate: str = ""

    def read(self, indices, draw=None):
        if get_worker_info() is not None and self.fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if get_worker_info() is not None:
            raise ImageReadError("a.png: image file is truncated")
        return super().read(indices)


@pytest.mark.parametrize(
    "fate, kind, message",
    [
        ("killed", Failed, r"a process that reads images died.*try fewer machine\.workers \(DataLoader worker"),
        ("broken", ImageReadError, r"^a\.png: image file is truncated$"),
    ],
)
def test_reader_in_a_process_of_its_own(tmp_path, fate, kind, message):
    data = tiny()
    data = replace(data, train=Unlucky(data.train.images, data.train.labels, fate))
    with pytest.raises(kind, match=message):
        train(recipe_of("--machine.workers=1", "--epochs=1"), tmp_path, data=data, title=None)
