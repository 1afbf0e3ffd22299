"""Means, intervals and verdicts over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from aaconv.reproduction.plan import Claim

LEVEL = 0.95
Accuracies = Mapping[str, Sequence[float]]  # of each arm, in the order of the seeds


@dataclass(frozen=True)
class Interval:
    """A mean and how far its 95% interval reaches to both sides (Student's t over seeds)."""

    mean: float
    reach: float

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.reach

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self.reach


def interval(values: Sequence[float]) -> Interval:
    """Of the mean of ``values``, at least two.

    Raises:
        ValueError: Fewer than two values, which have no interval.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {count}")
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * deviation / math.sqrt(count))


def difference(claim: Claim, accuracies: Accuracies) -> Interval:
    """What a claim says is above 0, seed by seed: the same seed means the same images in the same order."""
    more = [accuracies[arm] for arm in claim.more]
    less = [accuracies[arm] for arm in claim.less]
    return interval([sum(a) - sum(b) for a, b in zip(zip(*more, strict=True), zip(*less, strict=True), strict=True)])


def verdict(found: Interval) -> str:
    """Whether a difference that should be above 0 is."""
    if found.low > 0:
        return "holds"
    return "does not hold" if found.high < 0 else "undecided"
