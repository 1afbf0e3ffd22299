"""Command lines in README and guides are ones that the command line takes."""

import re
import shlex

import pytest

from aaconv.cli import _parser
from aaconv.detection.config import DetectionRecipe
from aaconv.training.config import Recipe
from aaconv.training.recipes import list_recipes, load_recipe, locate
from tests.docs.documents import PAGES, README, ROOT, blocks, command_lines, title

OTHERS = ("pip", "make", "python", "git")
LAUNCHED = re.compile(r"^(torchrun\b.*? -m|srun) (?=aaconv )")


def commands():
    for path in [README, *PAGES]:
        yield from ((path, line) for line in command_lines(path))


OURS = [
    (path, LAUNCHED.sub("", line)) for path, line in commands() if LAUNCHED.match(line) or line.startswith("aaconv ")
]


def take(line):
    """Raise SystemExit or ValueError unless the command line takes it and its recipe has the keys."""
    options, overrides = _parser().parse_known_args(shlex.split(line)[1:])
    if overrides and not options.takes_overrides:
        raise ValueError(f"unknown options {overrides}")
    if (recipe := getattr(options, "recipe", None)) is not None:
        load_recipe(recipe, overrides, DetectionRecipe if " detect " in line else Recipe)
    elif getattr(options, "name", None) and options.command.__name__ == "_recipes":
        locate(options.name)


def test_all_commands_are_looked_at():
    assert len(OURS) > 40
    for path, line in commands():
        assert LAUNCHED.match(line) or line.split()[0] in ("aaconv", *OTHERS), (title(path), line)


@pytest.mark.parametrize("line", sorted({line for _, line in OURS if not line.endswith("--version")}))
def test_command_is_taken(line):
    take(line)


WRONG = ("train digits --epoch 3", "train digit", "evaluate x", "eval x --dat y", "recipes digit", "predict IMAGE")


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_found(line):
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)):
        take(f"aaconv {line}")


def test_recipes_and_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in [README, *PAGES]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.MULTILINE):
            assert f"\n{target}:" in makefile, (title(path), target)
        for name in re.findall(r"`aaconv (?:detect )?train ([a-z_0-9]+)", text):
            assert name in {"folder", *list_recipes()}, (title(path), name)


def test_python_programs_that_are_named_exist():
    for path, line in commands():
        if line.startswith("python ") and (found := re.match(r"python ([\w/]+\.py)", line)):
            assert (ROOT / found[1]).is_file(), (title(path), line)
    assert blocks(README, "bash")
