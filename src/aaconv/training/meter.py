"""Sums over the images of an epoch, kept on the device so that counting does not wait for it."""

from __future__ import annotations

import torch
from torch import Tensor

NAMES = ("loss", "accuracy", "top5")


class Meter:
    """Mean loss, accuracy and top-5 accuracy of the images seen; ``totals`` is [loss, first, five, images]."""

    def __init__(self) -> None:
        self.totals = torch.zeros(4, dtype=torch.float64)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A batch: its mean loss, logits [b, c] and class indices [b]."""
        if self.totals.device != loss.device:
            self.totals = self.totals.to(loss.device)
        hits = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        count = len(labels)
        sums = torch.stack([loss.detach().double() * count, hits[:, 0].sum().double(), hits.sum().double()])
        self.totals[:3] += sums
        self.totals[3] += count

    def summed(self) -> Tensor:
        """The totals of all devices together."""
        totals = self.totals.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        return totals

    def means(self, prefix: str = "") -> dict[str, float]:
        """Each of ``NAMES`` over all images of all devices; nan before the first."""
        return _means(self.summed(), prefix)

    def own_means(self) -> dict[str, float]:
        """The same of this device alone."""
        return _means(self.totals, "")

    def reset(self) -> None:
        """Forget everything."""
        self.totals = torch.zeros_like(self.totals)


def _means(totals: Tensor, prefix: str) -> dict[str, float]:
    *sums, count = totals.tolist()
    pairs = zip(NAMES, sums, strict=True)
    return {f"{prefix}{name}": value / count if count else float("nan") for name, value in pairs}
