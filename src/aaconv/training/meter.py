"""Sums over the images of an epoch, kept on the device so that counting does not wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


class Meter:
    """Means over the images seen of what ``NAMES`` names; ``totals`` is [one sum a name, images]."""

    NAMES: tuple[str, ...]

    def __init__(self) -> None:
        self.totals = torch.zeros(len(self.NAMES) + 1, dtype=torch.float64)

    def add_sums(self, sums: Tensor, count: int) -> None:
        """Sums [names] over ``count`` images."""
        if self.totals.device != sums.device:
            self.totals = self.totals.to(sums.device)
        self.totals[:-1] += sums
        self.totals[-1] += count

    def summed(self) -> Tensor:
        """The totals of all devices together."""
        totals = self.totals.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        return totals

    def means(self, prefix: str = "") -> dict[str, float]:
        """Each of ``NAMES`` over all images of all devices; nan before the first."""
        return self._means(self.summed(), prefix)

    def own_means(self) -> dict[str, float]:
        """The same of this device alone."""
        return self._means(self.totals, "")

    def reset(self) -> None:
        """Forget everything."""
        self.totals = torch.zeros_like(self.totals)

    def _means(self, totals: Tensor, prefix: str) -> dict[str, float]:
        *sums, count = totals.tolist()
        pairs = zip(self.NAMES, sums, strict=True)
        return {f"{prefix}{name}": value / count if count else float("nan") for name, value in pairs}


class ClassMeter(Meter):
    """Loss, accuracy and top-5 accuracy."""

    NAMES = ("loss", "accuracy", "top5")

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A batch: its mean loss, logits [b, c] and class indices [b]."""
        hits = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        count = len(labels)
        sums = [loss.detach().double() * count, hits[:, 0].sum().double(), hits.sum().double()]
        self.add_sums(torch.stack(sums), count)
