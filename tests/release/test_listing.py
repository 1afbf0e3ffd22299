"""Public names, options and recipe keys are those of the checked-in list, so that none changes unseen."""

import difflib

import pytest

pytest.importorskip("pytorch_lightning")
pytest.importorskip("captum")

import aaconv
from tests.release import listing

HOW = """
What others rely on is no longer what tests/release/public_names.txt says:
{}
If that is meant: `python -m tests.release.listing` writes the list anew, CHANGELOG.md gets a line, and what goes away
warns for one minor version first (CONTRIBUTING.md, "What others rely on").
"""


def changes():
    before = listing.LISTED.read_text(encoding="utf-8").splitlines()
    lines = difflib.unified_diff(before, listing.lines(), "listed", "found", n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def test_nothing_changed():
    assert not changes(), HOW.format("\n".join(changes()))


def test_a_new_argument_is_noticed(monkeypatch):
    monkeypatch.setattr(aaconv, "list_models", lambda pattern="*", sort=True: [])
    assert changes() == ["-aaconv.list_models(pattern='*')", "+aaconv.list_models(pattern='*', sort=True)"]


def test_a_lost_name_is_noticed(monkeypatch):
    monkeypatch.setattr(aaconv, "__all__", [name for name in aaconv.__all__ if name != "augment"])
    monkeypatch.setattr(listing, "documented", list)
    assert any(line.startswith("-aaconv.augment(model, ") for line in changes())


def test_a_changed_option_is_noticed(monkeypatch):
    from aaconv import cli

    def options(parser):
        parser.add_argument("--size", type=int, default=3)

    monkeypatch.setitem(cli.COMMANDS, "models", (options, print, "text"))
    found = changes()
    assert "+aaconv models --size = 3" in found
    assert "-aaconv models --counts = False" in found


def test_the_documentation_is_read():
    kinds = [kind for kind, _, _ in listing.documented()]
    assert kinds.count("function") >= 10
    assert kinds.count("class") >= 5
