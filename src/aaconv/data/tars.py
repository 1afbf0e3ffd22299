"""Samples of tar files in the format of WebDataset, local or over http.

A sample is two neighbouring members: KEY.jpg (or .jpeg, .png) and KEY.cls, which holds the number of the class. They
are read with the standard library: the format's own package runs shell commands for some addresses.
"""

from __future__ import annotations

import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from tqdm import tqdm

from aaconv.data.images import MAX_BYTES, SUFFIXES, ImageReadError, printable
from aaconv.data.remote import CHUNK, RemoteFile

RANGE = r"\{(\d+)\.\.(\d+)\}"  # of numbers in a pattern
MAX_SHARDS = 1_000_000  # of a pattern
MAX_LABEL = 2**16  # bytes of a member that holds a class
MAX_NAME = 2**20  # bytes of a header's own content: a long name, or notes of another system
LARGEST = 2**53  # bytes of a member that is passed over
NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class Sample(NamedTuple):
    """An image file as it lies in a shard."""

    name: str  # shard and member, for messages
    content: bytes
    label: int


def expand(pattern: str) -> tuple[str, ...]:
    """The shards of a pattern: "a-{08..10}.tar" is a-08.tar, a-09.tar and a-10.tar.

    Raises:
        ValueError: It counts downwards, or to more than ``MAX_SHARDS`` shards.
    """
    ranges = re.findall(RANGE, pattern)
    if any(max(map(len, ends)) > 18 for ends in ranges):
        raise ValueError(f"shards {pattern[:80]} must count in numbers of at most 18 digits")
    if (count := math.prod(int(last) - int(first) + 1 for first, last in ranges)) > MAX_SHARDS:
        raise ValueError(f"shards {pattern} must be at most {MAX_SHARDS:,}, got {count:,}")
    found = re.search(RANGE, pattern)
    if found is None:
        return (pattern,)
    first, last = found.groups()
    if int(first) > int(last):
        raise ValueError(f"shards {pattern} must count upwards, got {first}..{last}")
    names = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return tuple(url for name in names for url in expand(pattern[: found.start()] + name + pattern[found.end() :]))


def is_local(url: str) -> bool:
    """Whether it is a path, no address."""
    return not re.match(r"https?://", url)


def count_samples(urls: Sequence[str]) -> int:
    """Images in local shards, from the headers of their members."""
    bar = tqdm(urls, desc="counting images", unit=" shards", disable=None if len(urls) > 10 else True)
    return sum(sum(_is_image(name) for name, _ in _members(url, contents=False)) for url in bar)


def samples_of(url: str, classes: int) -> Iterator[Sample]:
    """The samples of one shard, in order; members that belong to none are passed over.

    Raises:
        ImageReadError: The shard cannot be read to its end or has no sample, or a label is not below ``classes``.
    """
    held: dict[str, tuple[str, bytes]] = {}
    key, found = "", False
    for name, content in _members(url):
        stem, suffix = name.rpartition(".")[::2]
        if stem != key:
            key, held = stem, {}
        if _is_image(name):
            held["image"] = (f"{url}:{name}", content)
        elif suffix == "cls":
            held["label"] = (f"{url}:{name}", content)
        if len(held) == 2:
            yield Sample(*held["image"], _label(*held["label"], classes))
            held, found = {}, True
    if not found:  # a stream would look for one for ever
        raise ImageReadError(f"shard {printable(url)} must hold pairs of KEY.jpg (.jpeg, .png) and KEY.cls, got none")


def _label(name: str, content: bytes, classes: int) -> int:
    text = content.decode("utf-8", errors="replace").strip()
    if not text.isdecimal() or len(text) > 18 or int(text) >= classes:
        raise ImageReadError(f"{printable(name)}: a label must be 0 to {classes - 1}, got {text[:20]!r}")
    return int(text)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


class _Header(tarfile.TarInfo):
    """A header whose damage is told: tarfile takes all but the first one's for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        # tarfile allocates what a header claims, and goes round for ever where it claims less than nothing
        if not 0 <= header.size <= (MAX_NAME if header.type in NAMING else LARGEST):
            raise tarfile.ReadError(f"a header claims {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            header = super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"it is cut short or damaged: {error}") from error
        if not 0 <= header.size <= LARGEST:  # which other systems' notes may change
            raise tarfile.ReadError(f"a header claims {header.size:,} bytes")
        return header


def _members(url: str, *, contents: bool = True) -> Iterator[tuple[str, bytes]]:
    """Names of a tar file's members, and what those of samples hold, one after the other."""
    mode: Any = "r|*" if contents else "r:*"  # the latter jumps from header to header
    try:
        opened: Any = open(url, "rb") if is_local(url) else RemoteFile(url)  # noqa: SIM115  # closing does it
        with closing(opened), tarfile.open(fileobj=opened, mode=mode, bufsize=CHUNK, tarinfo=_Header) as tar:
            for member in tar:
                if member.isfile():
                    yield member.name, _content(tar, member) if contents else b""
    except MemoryError:
        raise
    except Exception as error:  # damaged archives fail in any way
        reason = printable(" ".join(str(error).split()))  # one line
        raise ImageReadError(f"shard {printable(url)} cannot be read: {reason}") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """What a member of a sample holds; others are passed over."""
    if not (_is_image(member.name) or member.name.endswith(".cls")):
        return b""
    limit = MAX_BYTES if _is_image(member.name) else MAX_LABEL
    if member.size > limit or member.issparse():  # holes take no room in the file, but as much in memory as it says
        raise tarfile.ReadError(f"member {member.name} has {member.size:,} bytes or holes, the limit is {limit:,}")
    file = tar.extractfile(member)
    return file.read() if file else b""
