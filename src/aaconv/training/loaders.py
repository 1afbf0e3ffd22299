"""Batches in an order that depends on seed and epoch alone, from any batch of an epoch on.

Letters: n training images, b images of one batch of one device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from aaconv.data.augmentation import NOISE, epoch_noise, rand_augment
from aaconv.data.shards import ShardStream
from aaconv.data.splits import Draw, Images


class Batch(NamedTuple):
    """uint8 images [b, C, H, W], class indices [b], and the images' random numbers [b, NOISE]."""

    images: Tensor
    labels: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Share:
    """Which part of every global batch is this device's."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut up: ``steps`` optimiser steps of ``accumulate`` batches on each of ``world`` devices."""

    count: int  # n
    batch_size: int  # images of an optimiser step
    accumulate: int
    world: int

    def __post_init__(self) -> None:
        parts = self.accumulate * self.world
        if self.batch_size % parts:
            near = max(parts, self.batch_size - self.batch_size % parts)
            raise ValueError(
                f"batch_size must be a multiple of accumulate x devices = {self.accumulate} x {self.world}, got "
                f"{self.batch_size}; {near} would do"
            )
        if self.batch_size > self.count:
            raise ValueError(f"batch_size must be at most the {self.count} training images, got {self.batch_size}")

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch; images that fill no step are left out, other ones in each epoch."""
        return self.count // self.batch_size

    @property
    def batches(self) -> int:
        """Batches of an epoch on each device."""
        return self.steps * self.accumulate

    @property
    def local(self) -> int:
        """b."""
        return self.batch_size // (self.accumulate * self.world)


class EpochOrder(Sampler[list[int]]):
    """Indices of this device's batches of one epoch, from batch ``start`` on."""

    def __init__(self, plan: Plan, draw: Draw, share: Share, start: int = 0):
        self.plan, self.draw, self.share, self.start = plan, draw, share, start

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.plan.count, generator=self.draw.generator(-1)).tolist()
        size = self.plan.local
        for batch in range(self.start, self.plan.batches):
            first = (batch * self.share.world + self.share.rank) * size
            yield order[first : first + size]

    def __len__(self) -> int:
        return self.plan.batches - self.start


class EpochImages(Dataset[Batch]):
    """Images of one epoch by lists of indices."""

    def __init__(self, images: Images, draw: Draw | None, magnitude: int = 0):
        self.images, self.draw, self.magnitude = images, draw, magnitude
        self.noise = torch.zeros(len(images), 0) if draw is None else epoch_noise(len(images), draw)

    def __getitems__(self, indices: list[int]) -> Batch:
        images, labels = self.images.read(indices, self.draw)
        if self.magnitude and self.draw is not None:
            images = rand_augment(images, [self.draw.generator(index) for index in indices], self.magnitude)
        return Batch(images, labels, self.noise[indices])

    def __len__(self) -> int:
        return len(self.images)


class EpochStream(IterableDataset[Batch]):
    """This device's batches of one epoch out of shards, every loader worker's own, from batch ``start`` on.

    Worker w of W gives batches w, w + W, ... of the epoch, as the loader asks for them in turn.
    """

    def __init__(self, stream: ShardStream, plan: Plan, draw: Draw, share: Share, start: int, workers: int):
        self.stream, self.plan, self.draw, self.share = stream, plan, draw, share
        self.start, self.workers = start, max(1, workers)

    def __iter__(self) -> Iterator[Batch]:
        # The loader asks its worker 0 first, whatever batch the epoch goes on from.
        turn = ((worker.id if (worker := get_worker_info()) else 0) + self.start) % self.workers
        done = len(range(turn, self.start, self.workers))
        left = len(range(turn, self.plan.batches, self.workers)) - done
        samples = self.stream.stream(
            self.draw,
            part=self.share.rank * self.workers + turn,
            parts=self.share.world * self.workers,
            start=done * self.plan.local,
        )
        for _ in range(left):
            yield _stack([next(samples) for _ in range(self.plan.local)], NOISE)


class EpochLoader(DataLoader[Any]):
    """Gives the batches from ``start`` on, and says how many the whole epoch has, as the engine counts them."""

    def __init__(self, *args: Any, batches: int, **options: Any):
        super().__init__(*args, **options)
        self.whole = batches

    def __len__(self) -> int:
        return self.whole


def train_loader(
    images: Images | ShardStream, plan: Plan, draw: Draw, share: Share, *, start: int, workers: int, magnitude: int
) -> EpochLoader:
    """An epoch's batches on this device, from batch ``start`` on."""
    if isinstance(images, ShardStream):
        stream = EpochStream(images, plan, draw, share, start, workers)
        pinned = torch.cuda.is_available()
        return EpochLoader(stream, batch_size=None, batches=plan.batches, num_workers=workers, pin_memory=pinned)
    order = EpochOrder(plan, draw, share, start)
    return ordered_loader(EpochImages(images, draw, magnitude), order, workers)


def ordered_loader(images: Dataset[Any], order: EpochOrder, workers: int) -> EpochLoader:
    """The batches of ``order``, as ``images.__getitems__`` makes them."""
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}
    return EpochLoader(images, batch_sampler=order, collate_fn=as_is, batches=order.plan.batches, **options)


def val_loader(images: Images | ShardStream, size: int, share: Share, workers: int) -> DataLoader[Batch]:
    """Every image once over all devices, in order; the last batches may be smaller, and devices may differ by one."""
    if isinstance(images, ShardStream):
        return DataLoader(OnceStream(images, size, share), batch_size=None, num_workers=workers)
    mine = range(share.rank, len(images), share.world)
    batches = [list(mine[i : i + size]) for i in range(0, len(mine), size)]
    chosen = EpochImages(images, None)
    return DataLoader(chosen, batch_sampler=batches, collate_fn=as_is, num_workers=workers)


class OnceStream(IterableDataset[Batch]):
    """Every evaluation image of the shards once."""

    def __init__(self, stream: ShardStream, size: int, share: Share):
        self.stream, self.size, self.share = stream, size, share

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        part, parts = self.share.rank * workers + number, self.share.world * workers
        held: list[tuple[Tensor, int]] = []
        for sample in self.stream.once(part, parts):
            held.append(sample)
            if len(held) == self.size:
                yield _stack(held)
                held = []
        if held:
            yield _stack(held)


def _stack(samples: list[tuple[Tensor, int]], noise: int = 0) -> Batch:
    images, labels = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), torch.zeros(len(images), noise))


def as_is(batch: Any) -> Any:
    """The batch is made already."""
    return batch
