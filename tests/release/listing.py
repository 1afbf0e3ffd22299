"""What others may rely on, as lines of text: public names with their signatures, commands with options, recipe keys.

Run: python -m tests.release.listing    (writes public_names.txt; every change of it needs a line in CHANGELOG.md)

Annotations are left out: their text differs between versions of Python, and types are the type checker's business.
"""

import argparse
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

ROOT = Path(__file__).parents[2]
LISTED = Path(__file__).with_name("public_names.txt")
PACKAGES = ("aaconv", "aaconv.explain", "aaconv.models", "aaconv.nn", "aaconv.ops", "aaconv.surgery")
LONGEST = 80  # characters of a default that is written out
DIRECTIVE = re.compile(r"^\.\. auto(function|class|module):: (\S+)((?:\n   :\S+:.*)*)", flags=re.MULTILINE)


def lines() -> list[str]:
    """All of it, in an order that does not change."""
    return [
        *("# Python", *sorted(set(python()))),
        *("", "# Command line", *command_line()),
        *("", "# Keys of recipes", *recipe_keys()),
    ]


def python() -> Iterator[str]:
    """What packages export, and what the documentation describes."""
    for package in PACKAGES:
        module = import_module(package)
        for name in exported(module):
            yield describe(f"{package}.{name}", getattr(module, name))
    for kind, path, options in documented():
        target = import_module(path) if kind == "module" else resolve(path)
        members = re.findall(r":members: (.+)", options)
        if kind != "module":
            yield describe(path, target)
        for member in members[0].split(", ") if members else ():
            yield describe(f"{path}.{member}", inspect.getattr_static(target, member))


def exported(module: Any) -> list[str]:
    """``__all__``, or the public names that a package's first file imports from its own files."""
    names = getattr(module, "__all__", None)
    own = (name for name, value in vars(module).items() if str(getattr(value, "__module__", "")).startswith("aaconv."))
    return sorted(names if names is not None else (name for name in own if not name.startswith("_")))


def documented() -> list[tuple[str, str, str]]:
    """Kind, path and options of each directive in the documentation."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [found for page in pages for found in DIRECTIVE.findall(page.read_text(encoding="utf-8"))]


def resolve(path: str) -> Any:
    """What is called by the last part of a dotted path; a function before a file of the same name."""
    home, _, name = path.rpartition(".")
    try:
        found = import_module(home)
    except ModuleNotFoundError:
        found = resolve(home)
    return getattr(found, name)


def describe(path: str, target: Any) -> str:
    """A function or class as one would call it; ``self`` is left out."""
    if isinstance(target, (classmethod, staticmethod)):
        target = target.__func__
    if not callable(target):
        return f"{path}  ({'property' if isinstance(target, property) else 'attribute'})"
    if inspect.isclass(target) and not _made_here(target):
        return f"{path}(...)"
    signature = inspect.signature(target)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name not in ("self", "cls")]
    bare = [p.replace(default=Ellipsis) if len(repr(p.default)) > LONGEST else p for p in bare]  # a table, say
    text = str(signature.replace(parameters=bare, return_annotation=signature.empty))
    return path + re.sub(r" at 0x[0-9a-f]+", "", text)


def _made_here(kind: type) -> bool:
    """Whether its arguments are ours and not those of a class of another library."""
    owner = next(parent for parent in kind.__mro__ if "__init__" in vars(parent))
    return owner is object or owner.__module__.startswith("aaconv")


def command_line() -> Iterator[str]:
    from aaconv.cli import _parser

    yield from _options(_parser())


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _options(sub)
        elif not isinstance(action, argparse._HelpAction):
            takes = action.nargs != 0 and (
                action.metavar or (action.choices and "|".join(map(str, action.choices))) or ""
            )
            words = [parser.prog, "/".join(action.option_strings) or action.dest, takes, _many(action.nargs)]
            needed = action.required and action.nargs not in ("*", "?")
            default = "required" if needed else f"= {action.default!r}"
            yield " ".join(filter(None, [*words, default]))


def _many(nargs: Any) -> str:
    return "" if nargs in (None, 0) else f"[{nargs}]"


def recipe_keys() -> Iterator[str]:
    from aaconv.detection.config import DetectionRecipe
    from aaconv.training.config import Recipe

    for recipe in (Recipe, DetectionRecipe):
        yield from _keys(recipe, f"{recipe.__name__}: ")


def _keys(config: type, before: str) -> Iterator[str]:
    kinds = get_type_hints(config)
    for field in fields(config):
        if is_dataclass(kinds[field.name]):
            yield from _keys(kinds[field.name], f"{before}{field.name}.")
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield f"{before}{field.name} = {'required' if default is MISSING else repr(default)}"


if __name__ == "__main__":
    LISTED.write_text("\n".join(lines()) + "\n", encoding="utf-8")
