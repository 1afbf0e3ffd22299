"""CIFAR's archives: where they are, what they hold, and a download that goes on after a cut; without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from aaconv._checks import expect_one_of
from aaconv.data.remote import pieces


@dataclass(frozen=True)
class Archive:
    """One version of a data set: its archive and the files in it, name and md5 (None: only the archive's is known)."""

    file: str
    md5: str
    folder: str  # in the archive
    train: Mapping[str, str | None]
    test: Mapping[str, str | None]
    meta: Mapping[str, str | None]
    keys: tuple[str, str] | None = None  # of the labels and the class names in the pickles
    label_bytes: int = 0  # before each image of the binary versions; the last is the label
    page: str = "https://www.cs.toronto.edu/~kriz/"  # that offers the archive

    @property
    def members(self) -> dict[str, str | None]:
        """All files that are read."""
        return {**self.train, **self.test, **self.meta}


CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
# Of each data set the first is the one to download. The md5 of the binary archives are those published on the page.
ARCHIVES: Mapping[str, tuple[Archive, ...]] = {
    "cifar10": (
        Archive(
            file="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train=CIFAR10_BATCHES,
            test={"test_batch": "40351d587109b95175f43aff81a1287e"},
            meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
            keys=("labels", "label_names"),
        ),
        Archive(
            file="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train=dict.fromkeys(f"{name}.bin" for name in CIFAR10_BATCHES),
            test={"test_batch.bin": None},
            meta={"batches.meta.txt": None},
            label_bytes=1,
        ),
    ),
    "cifar100": (
        Archive(
            file="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train={"train": "16019d7e3df5f24257cddd939b257f8d"},
            test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
            keys=("fine_labels", "fine_label_names"),
        ),
        Archive(
            file="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train={"train.bin": None},
            test={"test.bin": None},
            meta={"fine_label_names.txt": None},
            label_bytes=2,
        ),
    ),
}


def get(
    name: str,
    folder: str | Path,
    archives: Mapping[str, tuple[Archive, ...]] = ARCHIVES,
    *,
    say: Callable[[str], object] = print,
) -> Path:
    """Download the archive of ``cifar10`` or ``cifar100`` into ``folder``, for ``load_cifar``; raises as ``fetch``."""
    archive = archives[expect_one_of("name", name, archives)][0]
    return fetch(archive.page + archive.file, Path(folder) / archive.file, archive.md5, say=say)


def fetch(url: str, target: str | Path, md5: str, *, say: Callable[[str], object] = print) -> Path:
    """Download ``url`` to ``target`` unless it is there; what an earlier try left in ``target.part`` is gone on from.

    Args:
        url: Of the file; http or https.
        target: Appears whole, with the right hash, or not at all.
        md5: In hexadecimal digits.
        say: Is told what happens, a line at a time.

    Raises:
        OSError: No connection, none that lasts, or the server refuses.
        ValueError: ``target`` is there with another hash, or ``url`` gives a file with another hash.
    """
    target = Path(target)
    if target.exists():
        if (got := md5_of(target)) != md5:
            raise ValueError(f"{target} has md5 {got}, expected {md5}; remove it to download it again")
        say(f"{target} is there already")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    if not part.exists() or md5_of(part) != md5:  # else it was stopped before it got its name
        say(f"downloading {url} to {target}" + (f", from byte {_size(part)} on" if _size(part) else ""))
        _download(url, part, say)
    if (got := md5_of(part)) != md5:
        part.unlink()
        raise ValueError(f"{url} gave a file with md5 {got}, expected {md5}; it was deleted, try again")
    with part.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())
    os.replace(part, target)
    return target


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download(url: str, part: Path, say: Callable[[str], object]) -> None:
    """Append to ``part`` what is missing; write it anew where the server does not go on from there."""
    start = _size(part)
    bar = tqdm(desc=part.stem, initial=start, unit="B", unit_scale=True, disable=None)
    try:
        with part.open("r+b" if start else "wb") as file, bar:
            file.seek(start)
            for piece in pieces(url, start, say=say):
                if file.tell() != piece.start:
                    file.seek(piece.start)
                    file.truncate()
                bar.total, bar.n = piece.total, piece.start
                bar.update(file.write(piece.content))
    except OSError as error:
        kept = f"; the next try goes on from byte {_size(part)} in {part}" if _size(part) else ""
        if not kept:
            part.unlink(missing_ok=True)
        raise OSError(f"{url} cannot be downloaded: {error}{kept}") from error
