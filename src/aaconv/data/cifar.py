"""CIFAR-10 and CIFAR-100 as their page offers them; every file is checked against its hash before any is parsed.

Letters: n images of one file.
"""

from __future__ import annotations

import hashlib
import reprlib
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aaconv._checks import expect_one_of, expect_ratio
from aaconv.data.download import ARCHIVES, Archive, md5_of
from aaconv.data.plain_pickle import read_plain
from aaconv.data.splits import ImageData, Split, hold_out

PIXELS = 3 * 32 * 32  # of an image: all red, all green, all blue, each row by row


def load_cifar(
    name: str,
    path: str | Path,
    *,
    held_out: float = 0.0,
    seed: int = 0,
    archives: Mapping[str, tuple[Archive, ...]] = ARCHIVES,
) -> ImageData:
    """Images uint8 [n, 3, 32, 32] and labels int64 [n] (the fine ones of CIFAR-100), read into memory.

    Args:
        name: ``cifar10`` or ``cifar100``.
        path: The archive (python or binary version), the extracted folder of the python version, or their folder.
        held_out: Share of each training class for validation; 0 validates on the test set, as the paper does.
        seed: Of the draw of those.
        archives: What there is to read, with hashes; for tests.

    Raises:
        FileNotFoundError: ``path`` is not there, or holds none of these.
        ValueError: A file with another hash, cut, missing, of another form, or one that would run code.
    """
    rows = archives[expect_one_of("name", name, archives)]
    expect_ratio("held_out", held_out, zero=True)
    row, source = _find(name, Path(path), rows)
    files = _read(row, source)
    classes = _class_names(row, files, source)
    train, test = (_parse(row, files, members, len(classes), source) for members in (row.train, row.test))
    if held_out:
        train, test = hold_out(train, held_out, seed)
    return ImageData.in_memory(train, test, classes)


def _find(name: str, path: Path, rows: tuple[Archive, ...]) -> tuple[Archive, Path]:
    """The version that ``path`` offers, and its archive, whose hash is right, or its folder."""
    advice = f"`aaconv data get {name}` downloads it"
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}; {advice}")
    file = path if path.is_file() else next((path / row.file for row in rows if (path / row.file).is_file()), None)
    if file:
        rows = tuple(row for row in rows if row.file == file.name) or rows
        got = md5_of(file)
        for row in rows:
            if row.md5 == got:
                return row, file
        wanted = " or ".join(f"{row.md5} ({row.file})" for row in rows)
        raise ValueError(f"{file} has md5 {got}, expected {wanted}; download it again (`aaconv data get {name}`)")
    extracted = [row for row in rows if None not in row.members.values()]  # without hashes nothing vouches for them
    for row in extracted:
        for folder in (path / row.folder, path):
            if any((folder / member).is_file() for member in row.members):
                return row, folder
    wanted = ", ".join([row.file for row in rows] + [f"{row.folder}/" for row in extracted])
    raise FileNotFoundError(f"{path} must be or hold one of {wanted}; {advice}")


def _read(row: Archive, source: Path) -> dict[str, bytes]:
    """The files of ``row``, all of them and with the right hashes."""
    there = [member for member in row.members if (source / member).is_file()]
    files = {member: (source / member).read_bytes() for member in there} if source.is_dir() else _unpack(row, source)
    for member, md5 in row.members.items():
        if member not in files:
            raise ValueError(f"{source} must hold {', '.join(row.members)}, got no {member}; download it again")
        got = hashlib.md5(files[member], usedforsecurity=False).hexdigest()
        if md5 not in (None, got):
            raise ValueError(f"{member} of {source} has md5 {got}, expected {md5}; download it again")
    return files


def _unpack(row: Archive, archive: Path) -> dict[str, bytes]:
    """The files of ``row`` straight out of the archive: nothing is written anywhere."""
    names = {f"{row.folder}/{member}": member for member in row.members}
    files = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                if entry.name in names and entry.isfile() and (file := tar.extractfile(entry)):
                    files[names[entry.name]] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive} is cut short or damaged ({error}); download it again") from error
    return files


def _unpickle(content: bytes, where: str) -> dict[str, Any]:
    try:
        loaded = read_plain(content)
    except MemoryError:
        raise
    except Exception as error:  # damaged pickles fail in any way
        raise ValueError(f"{where} cannot be read: {error}; download it again") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{where} must hold a dict, got {type(loaded).__name__}")
    return loaded


def _class_names(row: Archive, files: dict[str, bytes], source: Path) -> list[str]:
    (member,) = row.meta
    if row.keys is None:
        names: Any = files[member].decode("latin1").split()
    else:
        names = _unpickle(files[member], f"{member} of {source}").get(row.keys[1])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{member} of {source} must hold a list of class names, got {_shown(names)}")
    return names


def _shown(names: Any) -> str:
    """What there is instead of names; what holds itself many times over would make a long text."""
    return names[:40] if isinstance(names, str) else reprlib.repr(names)[:80]


def _parse(row: Archive, files: dict[str, bytes], members: Mapping[str, Any], classes: int, source: Path) -> Split:
    """The images of all ``members``, one after another."""
    images, labels = [], []
    for member in members:
        where = f"{member} of {source}"
        pixels, own = (_rows if row.keys is None else _pickled)(row, files[member], where)
        _check(pixels, own, classes, where)
        images.append(pixels)
        labels += own
    return Split(torch.from_numpy(np.concatenate(images)).view(-1, 3, 32, 32), torch.tensor(labels))


def _rows(row: Archive, content: bytes, where: str) -> tuple[Any, Any]:
    """Pixels uint8 [n, 3072] and n labels of a binary file: rows of label bytes and pixels."""
    width = row.label_bytes + PIXELS
    if len(content) % width:
        raise ValueError(f"{where} must hold rows of {width} bytes, got {len(content)} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    return rows[:, row.label_bytes :], rows[:, row.label_bytes - 1].tolist()


def _pickled(row: Archive, content: bytes, where: str) -> tuple[Any, Any]:
    """What a pickle holds as pixels and as labels."""
    entry = _unpickle(content, where)
    return entry.get("data"), entry.get(row.keys[0] if row.keys else "")


def _check(pixels: Any, labels: Any, classes: int, where: str) -> None:
    """Raise unless these are uint8 [n, 3072] and n labels in the range of the classes."""
    got = f"{list(pixels.shape)} {pixels.dtype}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    count = len(pixels) if got.endswith("] uint8") and pixels.ndim == 2 and pixels.shape[1] == PIXELS else 0
    if not count:
        raise ValueError(f"{where} must hold images as [n, {PIXELS}] uint8, got {got}")
    if not isinstance(labels, list) or len(labels) != count or not all(type(label) is int for label in labels):
        length = len(labels) if isinstance(labels, list) else type(labels).__name__
        raise ValueError(f"{where} must hold a list of {count} int labels, one an image, got {length}")
    if wrong := [label for label in labels if not 0 <= label < classes]:
        raise ValueError(f"{where} must hold labels in 0..{classes - 1}, got {wrong[0]}")
