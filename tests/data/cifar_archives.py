"""Tiny archives in CIFAR's real formats, with hashes of their own."""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from aaconv.data.cifar import ARCHIVES


def make_cifar(folder, name, *, train=20, test=10, binary=False, packed=True, change=None):
    """Write a data set of ``train`` and ``test`` images and return its path and the table for ``archives=``.

    Args:
        folder: Where to.
        name: ``cifar10`` or ``cifar100``.
        train, test: Numbers of images; labels go round the classes.
        binary: The binary version instead of the pickles.
        packed: The archive; otherwise the extracted folder.
        change: Is given the files (name to bytes) to spoil before their hashes are taken.
    """
    row = ARCHIVES[name][binary]
    members = _members(row, name, train, test)
    if change:
        change(members)
    hashed = [
        {key: md5 and md5_hex(members.get(key, b"")) for key, md5 in group.items()}
        for group in (row.train, row.test, row.meta)
    ]
    path = Path(folder) / (row.file if packed else row.folder)
    (_pack if packed else _lay)(path, row.folder, members)
    own = replace(
        row, md5=md5_hex(path.read_bytes()) if packed else "0" * 32, train=hashed[0], test=hashed[1], meta=hashed[2]
    )
    rows = tuple(own if other is row else other for other in ARCHIVES[name])
    return path, {**ARCHIVES, name: rows}


def images_of(count, classes, seed):
    """Pixels uint8 [count, 3072], labels, and coarse labels as only CIFAR-100 has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = [i % classes for i in range(count)]
    return pixels, labels, [label // 5 for label in labels]


def md5_hex(content):
    """The md5 of bytes, in hexadecimal digits."""
    return hashlib.md5(content).hexdigest()


def pickled(content):
    """As Python 2 wrote it: all strings are bytes, numpy under its old name."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


class _Python2Pickler(pickle._Pickler):
    """Python 2's str is written by one opcode, whether it holds text or bytes."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def _save_str(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _save_str


def _members(row, name, train, test):
    classes = 100 if name == "cifar100" else 10
    names = [f"class_{i}" for i in range(classes)]
    (meta,) = row.meta
    if row.keys:
        files = {meta: pickled({row.keys[1]: names, "num_vis": 3072})}
    else:
        files = {meta: ("\n".join(names) + "\n\n").encode()}
    for seed, (group, count) in enumerate(((row.train, train), (row.test, test))):
        pixels, labels, coarse = images_of(count, classes, seed)
        for i, member in enumerate(group):
            own = slice(i * count // len(group), (i + 1) * count // len(group))
            files[member] = _batch(row, member, pixels[own], labels[own], coarse[own])
    return files


def _batch(row, member, pixels, labels, coarse):
    if row.keys is None:
        rows = [bytes([rough, fine][-row.label_bytes :]) for rough, fine in zip(coarse, labels, strict=True)]
        return b"".join(label + image.tobytes() for label, image in zip(rows, pixels, strict=True))
    names = [f"image_{i}.png" for i in range(len(labels))]
    entry = {"batch_label": member, "filenames": names, "data": pixels, row.keys[0]: labels}
    return pickled(entry | ({"coarse_labels": coarse} if row.keys[0] == "fine_labels" else {}))


def _pack(path, folder, members):
    with tarfile.open(path, "w:gz") as tar:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for name, content in members.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _lay(path, folder, members):
    path.mkdir()
    for name, content in members.items():
        (path / name).write_bytes(content)
