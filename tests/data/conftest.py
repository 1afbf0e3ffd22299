import pytest

from aaconv.data import remote
from tests.data.web import serving


@pytest.fixture
def server(monkeypatch):
    """A web server, and no waiting between tries."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(remote, "PAUSE", 0)
    with serving() as running:
        yield running
