"""Pages in two languages show the same code, drawings and tables are what their programs make."""

import re
import subprocess
import sys

import pytest

from aaconv.tables import format_tables
from tests.docs.documents import DOCS, PAGES, ROOT, blocks, title

TRANSLATED = sorted((DOCS / "ko").glob("*.md"))


@pytest.mark.parametrize("korean", TRANSLATED, ids=title)
def test_translations_show_the_same(korean):
    english = DOCS / korean.name
    languages = ("python", "console", "text")
    assert blocks(korean, *languages) == blocks(english, *languages) != []
    for path, other in ((korean, f"../{korean.name}"), (english, f"ko/{korean.name}")):
        assert f"]({other})" in path.read_text(encoding="utf-8"), f"{title(path)} does not lead to its translation"
    for what in (r"^#+ ", r"^!\[.+\]\(", r"^\|", r"^\* "):  # headings, pictures, rows of tables, points
        counts = [len(re.findall(what, path.read_text(encoding="utf-8"), re.MULTILINE)) for path in (korean, english)]
        assert counts[0] == counts[1], what


def test_pictures_have_words_for_those_who_cannot_see_them():
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for words, target in re.findall(r"!\[(.*?)\]\((.*?)\)", text):
            assert len(words) > 15, (title(path), target)
            assert (path.parent / target).is_file(), (title(path), target)


def test_drawings_are_what_their_program_draws(tmp_path):
    subprocess.run([sys.executable, ROOT / "scripts" / "make_drawings.py", "--out", tmp_path], check=True)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert [path.name for path in drawn] == sorted(path.name for path in (DOCS / "images").glob("*.svg"))
    for path in drawn:
        assert path.read_text(encoding="utf-8") == (DOCS / "images" / path.name).read_text(encoding="utf-8"), path.name


@pytest.mark.hard
def test_the_tables_are_what_the_command_prints():
    """Refresh with: aaconv tables --format markdown --out docs/output/tables.md."""
    assert (DOCS / "output" / "tables.md").read_text(encoding="utf-8") == format_tables("markdown")
