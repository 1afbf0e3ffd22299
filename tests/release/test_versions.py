"""One version everywhere, and documents that releases and reports rest on."""

import re
from pathlib import Path

import pytest

import aaconv

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
VERSION = r"\d+\.\d+\.\d+"


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_citation_and_changelog_are_of_this_version():
    cited = yaml.safe_load(text("CITATION.cff"))
    assert cited["version"] == aaconv.__version__
    newest = re.search(
        rf"^## ({VERSION}) \((unreleased|\d{{4}}-\d\d-\d\d)\)$", text("CHANGELOG.md"), flags=re.MULTILINE
    )
    assert newest[1] == aaconv.__version__
    if newest[2] != "unreleased":
        assert newest[2] == str(cited["date-released"])


def test_targets_that_documents_and_machines_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))
    for name in ("CONTRIBUTING.md", ".github/pull_request_template.md", "SECURITY.md", ".ci/run"):
        named = re.findall(r"`make ([a-z-]+)", text(name))
        named += re.findall(r"^for target in (.+); do$", text(name), flags=re.MULTILINE)
        assert {target for words in named for target in words.split()} <= targets, name
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
        words = [
            word for step in steps for run in re.findall(r"make (.+)", step.get("run", "")) for word in run.split()
        ]
        assert {word for word in words if "=" not in word} <= targets, path.name


def test_forms_ask_for_something():
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.stem != "config":
            assert {"name", "description", "body"} <= set(form), path.name
            fields = [field for field in form["body"] if field["type"] != "markdown"]
            assert fields, path.name
            assert all(field["attributes"]["label"] and field["id"] for field in fields), path.name


def test_links_between_documents_lead_somewhere():
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"):
        for target in re.findall(r"\]\(([^)h][^)]*)\)", text(name)):
            assert (ROOT / target).exists(), f"{name}: {target}"
