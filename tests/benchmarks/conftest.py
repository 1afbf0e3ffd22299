import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """A function that imports a benchmark, which stands in no package, and what it imports of the others, anew."""

    def imported(name):
        monkeypatch.syspath_prepend(str(FOLDER))
        for path in FOLDER.glob("*.py"):
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
        return importlib.import_module(name)

    return imported
