"""Recipes: YAML files that come with the package or lie anywhere, and what the command line changes in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml

from aaconv._checks import expect_file, expect_one_of
from aaconv.training.config import Recipe, RunConfig, flat

R = TypeVar("R", bound=RunConfig)
_WORD = re.compile(r"\w+")
DETECTORS = "detect_"  # the names of their recipes begin with this
MAX_BYTES = 100_000  # of a recipe; YAML's aliases make small files large, so these are refused too


def list_recipes(kind: type[RunConfig] | None = None) -> dict[str, str]:
    """Names of the recipes that come with the package, or of those of one task, each with its header's first line."""
    return {name: title for name, title in _packaged() if kind is None or _is_of(kind, name)}


@cache
def _packaged() -> list[tuple[str, str]]:
    """Names and titles, read once."""
    found = sorted(file.name for file in files("aaconv.recipes").iterdir() if file.name.endswith(".yaml"))
    texts = [(files("aaconv.recipes") / name).read_text(encoding="utf-8") for name in found]
    return [
        (name.removesuffix(".yaml"), text.partition("\n")[0].lstrip("# "))
        for name, text in zip(found, texts, strict=True)
    ]


@overload
def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe: ...
@overload
def load_recipe(source: str | Path, overrides: Sequence[str], kind: type[R]) -> R: ...
def load_recipe(source: str | Path, overrides: Sequence[str] = (), kind: Any = Recipe) -> Any:
    """The run that ``source`` and the command line's ``overrides`` describe.

    Args:
        source: Name of a recipe of the package, or path of a YAML file.
        overrides: As on the command line: ["--model.name", "aa_resnet50", "--epochs=3"].
        kind: What it describes; ``Recipe`` is a run of classification.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No such recipe, a key that is misspelt or given twice, or a value of the wrong kind.
    """
    path = locate(source)
    if str(source) in list_recipes() and not _is_of(kind, path.name):
        other = "aaconv train" if kind.PREFIX == DETECTORS else "aaconv detect train"
        raise ValueError(f"recipe {source} is of another task; use '{other} {source}'")
    values, usual = read_yaml(path), asdict(kind())
    _expect_values(values, usual, f"recipe {source}")
    _expect_no_classes(values, f"recipe {source}")
    _expect_no_classes({item: None for text in overrides for item in _WORD.findall(text)}, "command line")
    _expect_keys([item.partition("=")[0] for item in overrides if item.startswith("--")], usual)
    parsed = _parse(kind, lambda parser: parser.parse_object(values), f"recipe {source}")
    # Overrides are a second step, so that an error tells which of the two is wrong.
    if overrides:
        parsed = _parse(kind, lambda parser: parser.parse_args(list(overrides), namespace=parsed), "command line")
    made = _parser(kind).instantiate(parsed)
    return kind(**{entry.name: made[entry.name] for entry in fields(kind)})


def _is_of(kind: type[RunConfig], name: str) -> bool:
    """Whether a recipe of the package is of the task."""
    return name.startswith(DETECTORS) == (kind.PREFIX == DETECTORS)


def dump_recipe(recipe: RunConfig) -> str:
    """The whole configuration as YAML that ``load_recipe`` reads."""
    return yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; numbers as ``1e-4`` are numbers.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not UTF-8, not YAML, not a mapping, a key given twice, aliases, or too large.
    """
    text = text_of(path)
    try:
        values = yaml.load(text, _Loader)
    except (ValueError, OverflowError, yaml.YAMLError, RecursionError) as error:  # of text, numbers, YAML, depth
        raise ValueError(f"recipe {path} is not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} must hold keys and values, got {type(values).__name__}")
    return values


def text_of(path: Path) -> str:
    """A recipe as it is written.

    Raises:
        FileNotFoundError: No such file, or a folder, device or pipe.
        ValueError: Too large, or not UTF-8.
    """
    content = expect_file("recipe", path, MAX_BYTES).read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is not YAML in UTF-8: {error}") from error


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses what hides mistakes: keys given twice, aliases and tags; dates are text, as in paths."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in rows if not tag.endswith(":timestamp")]
        for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        if tag := getattr(event, "tag", None):
            raise yaml.YAMLError(f"tags are not allowed, got {tag!r}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        strange = [name for name in names if not isinstance(name, str)]
        if strange:
            raise yaml.YAMLError(f"keys must be text, got the key {strange[0]!r}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise yaml.YAMLError(f"key {twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)


def locate(source: str | Path) -> Path:
    """The file of a recipe: by its name in the package, or as a path."""
    path = Path(source)
    known = list_recipes()
    if str(source) not in known and (path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_dir()):
        return path
    expect_one_of("recipe", str(source), known)
    return Path(str(files("aaconv.recipes") / f"{source}.yaml"))


def _expect_no_classes(value: Any, where: str) -> None:
    """Raise ValueError where the parser would import and call something: a recipe may come from anywhere."""
    words = _WORD.findall(value) if isinstance(value, str) else value  # the parser reads texts as YAML too
    if isinstance(words, (dict, list)) and "class_path" in words:
        raise ValueError(f"{where}: class_path is no key of a recipe")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _expect_no_classes(item, where)


def _expect_values(values: dict[str, Any], usual: dict[str, Any], where: str) -> None:
    """Raise ValueError for keys of a file that no recipe has, groups that hold no keys, and keys without a value."""
    for name, value in values.items():
        default = usual.get(name)
        if default is None:
            near = get_close_matches(name, usual, n=1)
            raise ValueError(f"{where}: no key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if isinstance(default, dict) and not isinstance(value, dict):
            raise ValueError(f"{where}: {name} must hold keys and values, got {value!r}")
        given = (
            {f"{name}.{key}": (item, default.get(key, "")) for key, item in value.items()}
            if isinstance(default, dict)
            else {name: (value, default)}
        )
        empty = [key for key, (item, default) in given.items() if item is None and default is not None]
        if empty:
            raise ValueError(f"{where}: {empty[0]} must have a value, got none")


def _expect_keys(names: Sequence[str], usual: dict[str, Any]) -> None:
    """Raise ValueError for options that are no keys of a recipe, hold other keys, or are given twice."""
    known = [f"--{name}" for name, _ in flat(usual)] + ["--model.options"]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{name} is given twice; give it once")
        if name == "--model.options" and any(other.startswith("--model.options.") for other in names):
            raise ValueError("--model.options is given twice, whole and in parts; give one of the two")
        if name in known or name.startswith("--model.options."):
            continue
        within = [key for key in known if key.startswith(f"{name}.")]
        near = within or get_close_matches(name, known, n=1) or ["--epochs"]
        raise ValueError(f"no key {name} of a recipe takes a value; try {near[0]}, 'aaconv recipes --keys' shows all")


@cache
def _parser(kind: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="aaconv train", exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(kind)
    return parser


def _parse(kind: Any, parse: Any, where: str) -> Any:
    """A parser's result, its errors as ValueError with the place in front."""
    from argparse import ArgumentError

    try:
        return parse(_parser(kind))
    except (ArgumentError, TypeError, KeyError) as error:
        text = getattr(error, "message", None) or str(error)
        raise ValueError(f"{where}: {' '.join(text.split())}") from error


def describe_keys(kind: Any = Recipe) -> str:
    """Every key of a recipe with its default and meaning."""
    return _parser(kind).format_help().partition("\n\n")[2]


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
