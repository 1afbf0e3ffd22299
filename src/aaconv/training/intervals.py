"""How sure an accuracy is."""

from __future__ import annotations

import torch
from torch import Tensor


def paired_bootstrap(correct: Tensor, parts: Tensor, *, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Interval of the mean of ``correct`` [n] when each item is made of two ``parts`` [n, 2] that others share.

    Items that share a part are not independent, so the parts are drawn with replacement, not the items: an item
    counts as often as the product of its parts (the pigeonhole bootstrap, Owen 2007).
    """
    count = int(parts.max()) + 1
    random = torch.Generator().manual_seed(0)
    drawn = torch.randint(count, (draws, count), generator=random)
    weights = torch.zeros(draws, count).scatter_add_(1, drawn, torch.ones(draws, count))
    items = weights[:, parts[:, 0]] * weights[:, parts[:, 1]]
    means = (items * correct.float()).sum(dim=1) / items.sum(dim=1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2])).tolist()
    return low, high
