"""A real browser, a page that is served, and a report; without a browser these tests are skipped, with the reason."""

import os
import shutil
import socket
import tempfile

import pytest
from playwright.sync_api import sync_playwright

NEEDED = "AACONV_NEEDS_BROWSER"  # set where a missing browser is a failure
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = f"no browser found, tried {', '.join(NAMES)}"
        pytest.fail(reason) if os.environ.get(NEEDED) else pytest.skip(reason)
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *camera])
        yield started
        started.close()


@pytest.fixture
def tab(browser):
    """A page of its own session; anything that its scripts complain of, or fetch from elsewhere, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, permissions=["camera"])
    context.set_default_timeout(15_000)
    opened = context.new_page()
    wrong = watch(opened)
    yield opened
    context.close()
    assert not wrong


def watch(page):
    """Complaints of a page, as they come."""
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    local = ("http://127.0.0.1", "file:", "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(local) else wrong.append(asked.url))
    return wrong


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def uploads():
    """Where the served page may put uploads."""
    with tempfile.TemporaryDirectory(prefix="aaconv-test-") as folder:
        yield folder


@pytest.fixture(scope="session")
def address(browser, uploads):
    """Of the page over two packaged networks."""
    os.environ["GRADIO_TEMP_DIR"] = uploads
    from aaconv.explain.app import build_page, launch
    from aaconv.explain.shelf import Shelf

    page = build_page(Shelf(["digits", "detect_digits"]))
    yield launch(page, "127.0.0.1", free_port())
    page.close(verbose=False)
