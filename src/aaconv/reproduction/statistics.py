"""Means, intervals and verdicts over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from aaconv.reproduction.plan import Claim

LEVEL = 0.95
Accuracies = Mapping[str, Mapping[int, float]]  # of each arm, by seed
VERDICTS = ("holds", "does not hold", "undecided")


@dataclass(frozen=True)
class Interval:
    """The mean of ``count`` values and how far its 95% interval reaches to both sides (Student's t over seeds)."""

    mean: float
    reach: float
    count: int

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
        raise ValueError(f"values must be of at least 2 seeds to have an interval, got {count}")
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * deviation / math.sqrt(count), count)


def difference(claim: Claim, accuracies: Accuracies) -> Interval | None:
    """What a claim says is above 0, of the seeds that all its arms have; None where these are fewer than two.

    Seeds are paired: the same seed means the same images in the same order.
    """
    more, less = ([accuracies.get(arm, {}) for arm in arms] for arms in (claim.more, claim.less))
    seeds = sorted(set.intersection(*(set(found) for found in more + less)))
    if len(seeds) < 2:
        return None
    gaps = [sum(found[seed] for found in more) - sum(found[seed] for found in less) for seed in seeds]
    return interval([round(gap, 9) for gap in gaps])  # equal sums must not differ by their rounding


def verdict(found: Interval) -> str:
    """Whether a difference that should be above 0 is: one of ``VERDICTS``."""
    if found.low > 0:
        return "holds"
    return "does not hold" if found.high < 0 else "undecided"
