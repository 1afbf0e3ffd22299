"""Intervals, paired differences and verdicts."""

import pytest
from scipy import stats

from aaconv.reproduction.plan import Claim
from aaconv.reproduction.statistics import VERDICTS, Interval, difference, interval, verdict

CLAIM = Claim("a is better than b", ("a",), ("b",))


@pytest.mark.parametrize("values", [(0.5, 0.75), (0.81, 0.79, 0.83, 0.5, 0.8), tuple(0.01 * i**2 for i in range(12))])
def test_interval_is_students(values):
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.count == len(values)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 seeds to have an interval, got 1"):
        interval([0.5])


def test_differences_are_paired_by_seed():
    # Each seed's difference is 0.1, however the seeds are ordered; the means alone would be far from sure.
    found = difference(CLAIM, {"a": {0: 0.9, 1: 0.5, 2: 0.7}, "b": {2: 0.6, 0: 0.8, 1: 0.4}})
    assert (found.mean, found.reach, found.count) == (pytest.approx(0.1), pytest.approx(0, abs=1e-12), 3)


def test_seeds_that_some_arm_lacks_are_left_out():
    found = difference(CLAIM, {"a": {0: 0.9, 1: 0.5, 3: 0.7}, "b": {1: 0.3, 2: 0.1, 3: 0.4}})
    assert (found.mean, found.count) == (pytest.approx(0.25), 2)  # of seeds 1 and 3
    assert difference(CLAIM, {"a": {0: 0.9, 1: 0.5}, "b": {1: 0.3, 2: 0.1}}) is None
    assert difference(CLAIM, {"a": {0: 0.9, 1: 0.5}}) is None


def test_sums_of_arms():
    claim = Claim("", ("a", "b"), ("c", "d"))
    accuracies = {"a": {0: 0.9, 1: 0.8}, "b": {0: 0.3, 1: 0.2}, "c": {0: 0.4, 1: 0.3}, "d": {0: 0.1, 1: 0.4}}
    found = difference(claim, accuracies)
    assert found.mean == pytest.approx((0.7 + 0.3) / 2)
    assert found == interval([0.7, 0.3])


def test_rounding_decides_nothing():
    assert 0.1 + 0.2 - 0.3 > 0
    same = {"a": {0: 0.1, 1: 0.1}, "b": {0: 0.2, 1: 0.2}, "c": {0: 0.3, 1: 0.3}, "d": {0: 0.0, 1: 0.0}}
    assert verdict(difference(Claim("", ("a", "b"), ("c", "d")), same)) == "undecided"


@pytest.mark.parametrize(
    ("mean", "reach", "expected"),
    [
        (0.1, 0.09, "holds"),
        (0.1, 0.1, "undecided"),  # 0 is an end of the interval
        (0.1, 0.11, "undecided"),
        (-0.1, 0.11, "undecided"),
        (-0.1, 0.1, "undecided"),
        (-0.1, 0.09, "does not hold"),
        (0.0, 0.0, "undecided"),
    ],
)
def test_verdicts(mean, reach, expected):
    assert verdict(Interval(mean, reach, 5)) == expected
    assert expected in VERDICTS
