import signal

import pytest
import torch

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job: processes that tests interrupt inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Files of few tests that take long: begun first, or one process would wait for the other at the end.
LONG = ("test_starve.py", "test_kill.py", "test_runs.py", "test_resume.py", "test_cuda.py", "test_detection_resume.py")


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONG)))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def poisoned_empty(monkeypatch):
    """Fill every fresh floating-point ``torch.empty`` with NaN, so that an unwritten output cannot pass."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        make = getattr(owner, name)

        def poisoned(*args, make=make, **options):
            fresh = make(*args, **options)
            return fresh.fill_(float("nan")) if fresh.is_floating_point() and fresh.device.type == "cpu" else fresh

        monkeypatch.setattr(owner, name, poisoned)
