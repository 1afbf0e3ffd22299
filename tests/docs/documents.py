"""What the guides hold: blocks of code by language, and command lines."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.relative_to(DOCS).parts[0].startswith(("_", "output")))
README = ROOT / "README.md"


def blocks(path, *languages):
    """The blocks of a page in some of these languages, as they stand there."""
    text = path.read_text(encoding="utf-8")
    return [
        code for tag, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if tag in languages
    ]


def command_lines(path):
    """Lines of the shell in a page, comments off, lines that go on put together, each command by itself."""
    for block in blocks(path, "console", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (part.strip() for part in re.sub(r"(^|\s)#.*", "", line).split("&&") if part.strip())


def title(path):
    """For the names of tests."""
    return str(path.relative_to(ROOT))
