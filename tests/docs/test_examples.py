"""Every block of Python in the guides runs as printed, those of a page one after the other."""

import re

import pytest

from tests.docs.documents import DOCS, PAGES, blocks, title

CODE = [path for path in PAGES if blocks(path, "python")]
PRINTED = {  # pages whose printed text follows each block that prints
    DOCS / "start.md",
    DOCS / "ko" / "start.md",
}


def slow(path):
    """Networks of ImageNet's size take seconds each."""
    return path.stem in ("comparison", "detection", "export", "networks", "surgery")


def test_there_is_code():
    assert {path.stem for path in CODE} >= {"start", "layer", "surgery", "networks", "kernels", "seeing", "weights"}
    assert len([path for path in CODE if path.parent.name == "ko"]) == 2


def test_no_other_tag_hides_python():
    known = {"python", "console", "bash", "text"}
    for path in PAGES:
        tags = set(re.findall(r"^```(\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert tags <= known, (title(path), tags - known)
        untagged = path.read_text(encoding="utf-8").count("\n```\n\n```\n")
        assert not untagged, title(path)


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=title(path), marks=[pytest.mark.hard] if slow(path) else []) for path in CODE]
)
def test_code_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "a document"}
    for number, code in enumerate(blocks(path, "python"), start=1):
        exec(compile(code, f"{title(path)}, block {number}", "exec"), names)
        if path in PRINTED and (said := capsys.readouterr().out):
            assert said.rstrip() in shown(path), f"block {number} prints something else than the page shows"


def shown(path):
    """The outputs on a page, those that it includes too."""
    text = path.read_text(encoding="utf-8")
    included = re.findall(r"^```\{literalinclude\} (\S+)$", text, re.MULTILINE)
    return "\n".join([text, *((path.parent / name).read_text(encoding="utf-8") for name in included)])
