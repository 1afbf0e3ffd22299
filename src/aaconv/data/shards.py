"""Images in tar files (see ``tars``), read in a stream that can be entered anywhere.

Letters: C channels, E edge in pixels.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from aaconv._checks import expect_int, expect_one_of
from aaconv.data.files import MEAN, STD
from aaconv.data.images import ImageReadError, decode
from aaconv.data.splits import Draw
from aaconv.data.tars import Sample, count_samples, expand, is_local, samples_of
from aaconv.data.views import View

BUFFER = 1000  # samples that are held and drawn from at random


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
            ImageReadError: A shard or label that cannot be read, or, unless these are skipped, an image.
        """
        order = torch.randperm(len(self.urls), generator=draw.generator(-1)).tolist()
        mine = [self.urls[i] for i in order[part::parts]]
        if not mine:
            raise ValueError(
                f"{parts} readers (devices x workers) need as many shards, got {len(self.urls)}; use fewer"
            )
        given = broken = 0
        for number, sample in enumerate(self._shuffled(mine, draw.generator(-2 - part))):
            if given < start and self.on_broken == "fail":
                given += 1
                continue
            view = self._read(sample, draw.generator(part + parts * number))
            given, broken = (given, broken + 1) if view is None else (given + 1, 0)
            if broken > max(self.samples, self.buffer):
                raise ImageReadError(f"none of {broken} images one after another can be read, the last {sample.name}")
            if view is not None and given > start:
                yield view

    def once(self, part: int, parts: int) -> Iterator[tuple[Tensor, int]]:
        """Evaluation images and labels of one of ``parts`` readers, each image once, in order."""
        for url in self.urls[part::parts]:
            for sample in samples_of(url, self.classes):
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
                for sample in samples_of(url, self.classes):
                    held.append(sample)
                    if len(held) > self.buffer:
                        yield _drawn(held, generator)
            while held:
                yield _drawn(held, generator)
            urls = [urls[place] for place in torch.randperm(len(urls), generator=generator).tolist()]

    def _read(self, sample: Sample, generator: torch.Generator | None) -> tuple[Tensor, int] | None:
        try:
            return decode(sample.name, partial(self.view, generator=generator), sample.content), sample.label
        except ImageReadError as error:
            if self.on_broken == "fail":
                raise
            warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=2)
            return None


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
    expect_one_of("data.on_broken", on_broken, ("fail", "skip"))
    urls, val_urls = expand(train), expand(val)
    missing = [url for url in (*urls, *val_urls) if is_local(url) and not Path(url).is_file()]
    if missing:
        raise FileNotFoundError(f"no shard {missing[0]}" + (f", nor {len(missing) - 1} others" * (len(missing) > 1)))
    count = expect_int("data.samples", _count(urls) if samples is None else samples)
    view = View(size, 3, crop_pct, crop, flip, rand_augment)
    parts = (ShardStream(urls, count, classes, view, on_broken), ShardStream(val_urls, 0, classes, view, on_broken))
    return ShardData(*parts, tuple(map(str, range(classes))), 3, (size, size), MEAN, STD)


def _count(urls: Sequence[str]) -> int:
    if not all(is_local(url) for url in urls):
        raise ValueError("data.samples must say how many images remote shards hold, got none; give --data.samples")
    return count_samples(urls)


def _drawn(held: list[Sample], generator: torch.Generator) -> Sample:
    """One of ``held``, which loses it."""
    place = int(torch.randint(len(held), (), generator=generator))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()
