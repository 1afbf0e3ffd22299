"""Images in tar files in the format of WebDataset, local or over http, read in a stream that can be entered anywhere.

A sample is two neighbouring members: KEY.jpg (or .jpeg, .png) and KEY.cls, which holds the number of the class. They are
read with the standard library: the format's own package runs shell commands for some addresses.

Letters: C channels, E edge in pixels.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from aaconv._checks import expect_int
from aaconv.data.files import MEAN, STD
from aaconv.data.images import SUFFIXES, ImageReadError, open_image
from aaconv.data.splits import Draw
from aaconv.data.views import View

BUFFER = 1000  # samples that are held and drawn from at random
SECONDS = 60  # without an answer of a server


class Sample(NamedTuple):
    """An image file as it lies in a shard."""

    name: str  # shard and member, for messages
    content: bytes
    label: int


@dataclass(frozen=True)
class ShardStream:
    """Labelled images of shards, in a stream.

    Args:
        urls: The shards.
        samples: Images of an epoch; unknown (0) where they are only gone through once.
        classes: Labels are below this.
        view: How images become tensors.
        on_broken: "fail", or "skip" to go on with the next image.
        buffer: Samples that are held and drawn from at random.
    """

    urls: tuple[str, ...]
    samples: int
    classes: int
    view: View
    on_broken: str = "fail"
    buffer: int = BUFFER

    def stream(self, draw: Draw, *, part: int, parts: int, start: int = 0) -> Iterator[tuple[Tensor, int]]:
        """Training images uint8 [C, E, E] and labels of one of ``parts`` readers, without end.

        Shards are dealt out anew each epoch; a reader that has come to the end of its own goes through them again, so
        that all give as many as they are asked for.

        Args:
            draw: Run and epoch.
            part: Which reader.
            parts: How many there are, at most as many as shards.
            start: Samples that were given already; they are read over, and decoded only where broken ones are skipped.

        Raises:
            ValueError: More readers than shards.
            ImageReadError: An image or label that cannot be read, unless these are skipped.
        """
        order = torch.randperm(len(self.urls), generator=draw.generator(-1)).tolist()
        mine = [self.urls[i] for i in order[part::parts]]
        if not mine:
            raise ValueError(
                f"{parts} readers (devices x workers) need as many shards, got {len(self.urls)}; use fewer"
            )
        given = 0
        for number, sample in enumerate(self._shuffled(mine, draw.generator(-2 - part))):
            if given < start and self.on_broken == "fail":
                given += 1
                continue
            generator = draw.generator(part + parts * number)
            view = self._read(sample, generator)
            if view is not None:
                given += 1
                if given > start:
                    yield view

    def once(self, part: int, parts: int) -> Iterator[tuple[Tensor, int]]:
        """Evaluation images and labels of one of ``parts`` readers, each image once, in order."""
        for url in self.urls[part::parts]:
            for sample in _samples(url, self.classes):
                view = self._read(sample, None)
                if view is not None:
                    yield view

    def fingerprint(self) -> str:
        """Of the addresses, the sizes of local shards and the number of samples."""
        sizes = [Path(url).stat().st_size if is_local(url) else "remote" for url in self.urls]
        text = repr((self.samples, list(zip(self.urls, sizes, strict=True))))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def _shuffled(self, urls: Sequence[str], generator: torch.Generator) -> Iterator[Sample]:
        """Pass after pass over all samples, each in another order."""
        while True:
            held: list[Sample] = []
            for url in urls:
                for sample in _samples(url, self.classes):
                    held.append(sample)
                    if len(held) > self.buffer:
                        yield _drawn(held, generator)
            while held:
                yield _drawn(held, generator)
            urls = [urls[place] for place in torch.randperm(len(urls), generator=generator).tolist()]

    def _read(self, sample: Sample, generator: torch.Generator | None) -> tuple[Tensor, int] | None:
        try:
            with open_image(sample.name, sample.content) as image:
                pixels = self.view.evaluation(image) if generator is None else self.view.training(image, generator)
        except (OSError, SyntaxError, ValueError) as error:
            if self.on_broken == "fail":
                raise (
                    error if isinstance(error, ImageReadError) else ImageReadError(f"{sample.name}: {error}")
                ) from error
            warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=2)
            return None
        return pixels, sample.label


@dataclass(frozen=True)
class ShardData:
    """A classification data set in shards; the counterpart of ``ImageData``."""

    train: ShardStream
    val: ShardStream
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """A hash of both parts."""
        return f"{self.train.fingerprint()}-{self.val.fingerprint()}"


def load_shards(
    train: str,
    val: str,
    *,
    samples: int | None,
    classes: int | None,
    size: int,
    crop_pct: float = 0.875,
    on_broken: str = "fail",
    crop: str = "inception",
    flip: bool = True,
    rand_augment: int = 0,
) -> ShardData:
    """Both parts, checked as far as can be done without reading the images.

    Args:
        train, val: A file, address or pattern each, such as "train-{0000..1023}.tar".
        samples: Training images of an epoch; None counts them where all shards are local.
        classes: Number of classes.
        size: E.
        on_broken: "fail" or "skip".
        crop_pct, crop, flip, rand_augment: See ``View``.

    Raises:
        FileNotFoundError: A local shard is missing.
        ValueError: ``classes``, or for remote shards ``samples``, is not given; or a shard is no tar file.
    """
    if classes is None:
        raise ValueError("data.classes must say how many classes the shards have, got none; give --data.classes")
    expect_int("data.classes", classes, minimum=2)
    urls, val_urls = expand(train), expand(val)
    missing = [url for url in (*urls, *val_urls) if is_local(url) and not Path(url).is_file()]
    if missing:
        raise FileNotFoundError(f"no shard {missing[0]}" + (f", nor {len(missing) - 1} others" * (len(missing) > 1)))
    if samples is None:
        if not all(is_local(url) for url in urls):
            raise ValueError("data.samples must say how many images remote shards hold, got none; give --data.samples")
        samples = count_samples(urls)
    expect_int("data.samples", samples)
    view = View(size, 3, crop_pct, crop, flip, rand_augment)
    parts = (ShardStream(urls, samples, classes, view, on_broken), ShardStream(val_urls, 0, classes, view, on_broken))
    return ShardData(*parts, tuple(map(str, range(classes))), 3, (size, size), MEAN, STD)


def expand(pattern: str) -> tuple[str, ...]:
    """The shards of a pattern: "a-{08..10}.tar" is a-08.tar, a-09.tar and a-10.tar."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        return (pattern,)
    first, last = found.groups()
    if int(first) > int(last):
        raise ValueError(f"shards {pattern} must count upwards")
    names = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return tuple(url for name in names for url in expand(pattern[: found.start()] + name + pattern[found.end() :]))


def is_local(url: str) -> bool:
    """Whether it is a path, no address."""
    return not re.match(r"https?://", url)


def count_samples(urls: Sequence[str]) -> int:
    """Images in local shards, from the headers of their members."""
    bar = tqdm(urls, desc="counting images", unit=" shards", disable=None if len(urls) > 10 else True)
    return sum(sum(_is_image(name) for name, _ in _members(url, contents=False)) for url in bar)


def _drawn(held: list[Sample], generator: torch.Generator) -> Sample:
    """One of ``held``, which loses it."""
    place = int(torch.randint(len(held), (), generator=generator))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()


def _samples(url: str, classes: int) -> Iterator[Sample]:
    held: dict[str, tuple[str, bytes]] = {}
    key = ""
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
            held = {}


def _label(name: str, content: bytes, classes: int) -> int:
    text = content.decode("utf-8", errors="replace").strip()
    if not text.isdecimal() or int(text) >= classes:
        raise ImageReadError(f"{name}: a label must be 0 to {classes - 1}, got {text[:20]!r}")
    return int(text)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _members(url: str, *, contents: bool = True) -> Iterator[tuple[str, bytes]]:
    """Names of a tar file's members and what they hold, one after the other."""
    try:
        opened: Any = open(url, "rb") if is_local(url) else urllib.request.urlopen(url, timeout=SECONDS)  # noqa: SIM115
        with closing(opened), tarfile.open(fileobj=opened, mode="r|*" if contents else "r:*") as tar:
            for member in tar:
                if member.isfile():
                    file = tar.extractfile(member) if contents else None
                    yield member.name, file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, ImageReadError):
            raise
        raise ImageReadError(f"shard {url} cannot be read: {error}") from error
