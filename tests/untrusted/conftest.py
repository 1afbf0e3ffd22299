import os

import pytest


@pytest.fixture
def seed():
    """Of all damage; another one looks for what this one misses."""
    return int(os.environ.get("AACONV_FUZZ_SEED", "0"))


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A folder for what is read, beside a file that must stay as it is; nothing else may appear around it."""
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "canary.txt").write_text("sings")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.txt", "here", "inside"]
    assert (tmp_path / "canary.txt").read_text() == "sings"
    assert not list((tmp_path / "here").iterdir())
