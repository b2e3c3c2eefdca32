"""Intervals hold what they promise, for what is drawn are clusters."""

import numpy as np
import pytest

from mgie.evaluation.comparing import bootstrap
from mgie.evaluation.comparing.bootstrap import Clusters, detectable, holm, interval, p_value

FIRST = np.array([0.1, 0.2, 0.3, 0.4, 0.2, 0.9, 0.5, 0.6])
SECOND = np.array([0.2, 0.2, 0.4, 0.3, 0.6, 0.8, 0.7, 0.9])
LABELS = ("s0", "s0", "s1", "s1", "s2", "s2", "s3", "s4")


def drawn(values, labels=LABELS, groups=None, seed=0, draws=10_000):
    values = np.asarray(values, float).reshape(len(labels), -1)
    clusters = Clusters(labels=tuple(labels), groups=groups, seed=seed, draws=draws)
    return clusters.ratios(values, np.ones_like(values))


def test_golden():
    """Worked out apart from this code, with the draws of NumPy's PCG64 from seed 0."""
    (value,), rows = drawn(FIRST - SECOND)
    found = interval(value, rows[:, 0], 5)
    assert found.value == pytest.approx(-0.1125, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((-0.21666666666666667, -0.04), abs=1e-12)
    assert p_value(rows[:, 0]) == pytest.approx(0.00059994, abs=1e-9)
    (wins,), _ = drawn((FIRST < SECOND) + 0.5 * (FIRST == SECOND))
    assert wins == 0.6875
    sums = np.array([[1.0, 0], [0, 1], [0, 0], [0, 0], [0, 0]])  # of the first draw, [4, 3, 2, 1, 1]
    assert bootstrap._resampled(sums, np.random.Generator(np.random.PCG64(0)), 1).tolist() == [[0, 2]]


def test_memory_plays_no_part(monkeypatch):
    whole = drawn(FIRST - SECOND)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 35)
    assert np.array_equal(drawn(FIRST - SECOND)[1], whole[1])


def test_the_order_of_items_plays_no_part():
    order = np.random.default_rng(3).permutation(8)
    value, rows = drawn((FIRST - SECOND)[order], [LABELS[place] for place in order])
    expected = drawn(FIRST - SECOND)
    assert np.array_equal(value, expected[0]) and np.array_equal(rows, expected[1])


def test_equal_systems_differ_by_nothing():
    (value,), rows = drawn(FIRST - FIRST)
    found = interval(value, rows[:, 0], 5)
    assert (found.value, found.low, found.high, p_value(rows[:, 0])) == (0, 0, 0, 1)
    assert detectable(rows[:, 0]) == 0


def test_groups_weigh_alike_and_are_drawn_apart():
    groups = ("b", "b", "b", "b", "b", "b", "a", "a")
    (value,), rows = drawn(FIRST, groups=groups)
    assert value == pytest.approx((FIRST[:6].mean() + FIRST[6:].mean()) / 2, abs=1e-12)
    generator = np.random.Generator(np.random.PCG64(0))  # groups in the order of their names
    a = generator.integers(0, 2, size=(10_000, 2))
    b = generator.integers(0, 3, size=(10_000, 3))
    expected = (FIRST[6:][a].mean(axis=1) + FIRST[:6].reshape(3, 2)[b].mean(axis=(1, 2))) / 2
    assert np.allclose(rows[:, 0], expected, rtol=0, atol=1e-12)


def test_a_mean_is_of_the_items_that_were_drawn():
    """Clusters differ in size: a draw's mean is of sums and counts, no mean of means."""
    values, labels = np.array([1.0, 1, 1, 0]), ("a", "a", "a", "b")
    _, rows = drawn(values, labels, draws=2000)
    assert set(np.round(rows[:, 0], 12)) == {0, 0.75, 1}


def test_what_has_no_number_is_drawn_around():
    values, present = np.array([[1.0], [0.0], [3.0]]), np.array([[1.0], [0.0], [1.0]])
    (value,), rows = Clusters(labels=("a", "b", "c"), seed=0).ratios(values, present)
    assert value == 2 and np.isnan(rows).any()
    found = interval(value, rows[:, 0], 3)
    assert found.low == 1 and found.high == 3 and np.isfinite(p_value(rows[:, 0] - 2))


def test_of_one_cluster_nothing_is_known():
    (value,), rows = drawn([1, 2], ("a", "a"))
    assert interval(value, rows[:, 0], 1).low is None


def coverage(*, clustered: bool, times: int = 400) -> float:
    """How often an interval holds the true mean, 0, of items that share a part with their cluster."""
    draw, hits = np.random.default_rng(5), 0
    labels = np.repeat([f"{n:03d}" for n in range(60)], 4)
    for place in range(times):
        values = np.repeat(draw.normal(size=60), 4) + draw.normal(size=240)
        own = tuple(labels) if clustered else tuple(f"{n:03d}" for n in range(240))
        (value,), rows = drawn(values, own, seed=place, draws=400)
        found = interval(value, rows[:, 0], 60)
        hits += found.low <= 0 <= found.high
    return hits / times


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 400 intervals of 95 % at least 362 hold it with 99.99 % (binomial), and at most 395; without regard
    to clusters about 80 % do."""
    assert 362 <= 400 * coverage(clustered=True) <= 395
    assert coverage(clustered=False, times=100) < 0.9


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_a_p_value_is_two_sided_and_never_zero():
    assert p_value(np.array([1.0, 1, 1])) == 2 * 1 / 4
    assert p_value(np.full(9999, -1.0)) == 2 / 10_000
    assert p_value(np.array([0.0, 0.0])) == 1
