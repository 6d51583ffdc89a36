"""Intervals and paired tests against SciPy's own."""

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from m2fedsa.statistics import difference, estimate

values = st.floats(0, 1, width=32)
several = st.lists(values, min_size=2, max_size=30).filter(lambda found: max(found) - min(found) > 1e-3)


@given(several)
def test_the_interval_is_scipys(found: list[float]) -> None:
    ours = estimate(found)
    low, high = scipy.stats.t.interval(0.95, len(found) - 1, loc=sum(found) / len(found), scale=scipy.stats.sem(found))
    assert ours.mean == pytest.approx(sum(found) / len(found), rel=1e-9)
    assert (ours.mean - ours.half, ours.mean + ours.half) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(values, values), min_size=2, max_size=20))
def test_the_paired_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    apart = [one - other for one, other in pairs]
    if max(apart) - min(apart) < 1e-3:
        return
    found, expected = difference(ours, theirs), scipy.stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    interval = expected.confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


def test_what_has_no_interval() -> None:
    assert estimate([]) is None
    assert str(estimate([0.25])) == "0.250"
    assert difference([], []) is None
    assert difference([0.5], [0.25]) == (0.25, None, None)


def test_differences_without_spread_are_the_limits_of_the_test() -> None:
    assert difference([0.5, 0.75], [0.25, 0.5]) == (0.25, 0.0, 0.0)
    assert difference([0.5, 0.75], [0.5, 0.75]) == (0.0, 0.0, 1.0)
