"""The code in README runs as printed; tests/docs looks at the guides."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    pytest.param(code, id=f"README.md-{i}")
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
]


def test_there_is_code():
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("code", BLOCKS)
def test_code_runs(code):
    exec(compile(code, "a document", "exec"), {})


def test_files_and_commands_exist():
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target
