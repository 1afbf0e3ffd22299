"""CIFAR's archives: where they are, what they hold, and a download that goes on after a cut; without torch."""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from aaconv._checks import expect_one_of

TIMEOUT = 30.0  # seconds without an answer
RETRIES = 3  # one after another that bring nothing new
PAUSE = 1.0  # seconds before each
CHUNK = 2**16  # bytes
DROPPED = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


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
    with part.open("rb") as file:
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
    """Fill ``part``, over as many connections as bring something new and ``RETRIES`` that do not."""
    most, left = _size(part), RETRIES
    while True:
        try:
            return _receive(url, part)
        except HTTPError as error:
            error.close()
            if error.code == 416 and part.exists():  # nothing follows what we have, yet its hash is wrong
                say(f"{part} is not a part of {url}: starting again")
                part.unlink()
                continue
            raise OSError(f"{url} cannot be downloaded: {error.code} {error.reason}") from error
        except DROPPED as error:
            left = RETRIES if _size(part) > most else left - 1
            reason = getattr(error, "reason", None) or error
            if left < 0:
                kept = f"; the next try goes on from byte {_size(part)} in {part}" if _size(part) else ""
                raise OSError(f"{url} cannot be downloaded: {reason}{kept}") from error
            say(f"{reason}; trying again")
        most = max(most, _size(part))
        time.sleep(PAUSE)


def _receive(url: str, part: Path) -> None:
    """Append to ``part`` what is missing; begin again where the server does not go on from there."""
    start = _size(part)
    headers = {"User-Agent": "aaconv"} | ({"Range": f"bytes={start}-"} if start else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        follows = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status == 206 and not follows:
            part.unlink(missing_ok=True)
            raise ConnectionError("the server sent another part than was asked for")
        start = start if follows else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if follows else "wb") as file, bar:
            while chunk := response.read(CHUNK):
                bar.update(file.write(chunk))
    if total is not None and _size(part) < total:  # urllib takes a connection that closes for the end
        raise ConnectionError(f"the connection was cut at byte {_size(part)} of {total}")
