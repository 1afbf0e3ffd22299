"""Whether files are whole: each kind is read to its end."""

import csv
import io
import json
import zipfile
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors import safe_open

from aaconv._files import MARK


def _text(path, end="\n"):
    text = path.read_text(encoding="utf-8")
    assert text.endswith(end), f"ends with {text[-20:]!r}"
    return text


def _html(path):
    _text(path, "</html>")


def _csv(path):
    with io.StringIO(_text(path)) as file:
        header, *rows = csv.reader(file)
    assert rows
    assert {len(row) for row in rows} == {len(header)}


def _png(path):
    with Image.open(path) as image:
        image.load()
    assert path.read_bytes().rstrip(b"\0").endswith(b"IEND\xaeB`\x82")


def _safetensors(path):
    with safe_open(path, framework="pt") as file:
        assert [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 (no mapping)


def _zip(path):
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist()


READERS = {
    ".csv": _csv,
    ".ckpt": lambda path: torch.load(path, weights_only=True)["state_dict"],
    ".html": _html,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".md": _text,
    ".png": _png,
    ".pt2": _zip,
    ".safetensors": _safetensors,
    ".yaml": lambda path: yaml.safe_load(_text(path)).keys(),
    ".gz": lambda path: _same(path, b"archive" * 300_000),
}
GROWING = (".lock", ".lock.holder", ".part")


def _same(path, content):
    assert path.read_bytes() == content


def is_growing(path):
    """Whether a file is made piece by piece under its own name, and who reads it knows."""
    return path.name.endswith(GROWING) or ".tfevents." in path.name


def faults(folder):
    """What is wrong with the files below ``folder``, a line each; those named as unfinished are none's business."""
    found = []
    for path in sorted(Path(folder).rglob("*")):
        if MARK in str(path) or path.is_dir() or is_growing(path):
            continue
        try:
            READERS[path.suffix](path)
        except Exception as error:
            found.append(f"{path.name}: {error!r}"[:300])
    return found


def unfinished(folder):
    """What was begun below ``folder`` and not finished."""
    return sorted(path.name for path in Path(folder).rglob("*") if MARK in path.name or path.suffix == ".part")


def names(folder):
    """Of all finished files below ``folder``; those of TensorBoard differ from run to run."""
    every = (path for path in Path(folder).rglob("*") if path.is_file() and not is_growing(path))
    return sorted(str(path.relative_to(folder)) for path in every if MARK not in str(path))
