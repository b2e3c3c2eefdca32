"""Intervals of means and of differences, by drawing whole clusters of items again and again.

Items of one cluster (turns of a session, edits of one photo) are no independent samples, so clusters are
drawn, with replacement, and a mean is computed anew from the sums and counts of those that were drawn (Efron
and Tibshirani 1993). All systems, metrics and views are computed from the same draws, so that a difference of
two systems is one of pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

DRAWS = 10_000
LEVEL = 0.95
AT_ONCE = 1 << 22
"""Numbers drawn at once; memory, and nothing else, depends on it."""


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Which items belong together, and the draws that all numbers about them share."""

    labels: tuple[str, ...]
    """Of each item its cluster."""
    groups: tuple[str, ...] | None = None
    """Of each item the group whose mean is taken first ("macro"); None where all items count alike."""
    seed: int
    draws: int = DRAWS

    @cached_property
    def strata(self) -> list[tuple[Int[np.ndarray, " i"], Int[np.ndarray, " i"], int]]:
        """Of each group in the order of their names: its items, their clusters' numbers (in the order of the
        clusters' names), how many clusters there are."""
        groups = np.array(self.groups if self.groups is not None else [""] * len(self.labels), dtype=object)
        labels, found = np.array(self.labels, dtype=object), []
        for group in sorted(set(groups)):
            items = np.flatnonzero(groups == group)
            names, numbers = np.unique(labels[items], return_inverse=True)
            found.append((items, numbers.reshape(-1), len(names)))
        return found

    @property
    def count(self) -> int:
        """How many clusters there are."""
        return len(set(self.labels))

    def ratios(
        self, numerators: Float[np.ndarray, "i k"], denominators: Float[np.ndarray, "i k"]
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "b k"]]:
        """Sum of numerators over sum of denominators, of the items as they are and of each draw; with groups
        the mean of theirs. NaN where a denominator is zero: no item with a number was drawn."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        columns = np.concatenate([numerators, denominators], axis=1)
        values, drawn = [], []
        for items, numbers, count in self.strata:
            sums = _sums(columns[items], numbers, count)
            values.append(_divided(np.array([[math.fsum(column) for column in sums.T]])))
            drawn.append(_divided(_resampled(sums, generator, self.draws)))
        return np.mean(values, axis=0)[0], np.mean(drawn, axis=0)


def _sums(columns: Float[np.ndarray, "i k"], numbers: Int[np.ndarray, " i"], count: int) -> np.ndarray:
    """Of each cluster and column the sum, exact, so that the order of items plays no part."""
    members = [np.flatnonzero(numbers == number) for number in range(count)] if count < len(numbers) else None
    if members is None:  # each item its own cluster
        sums = np.empty_like(columns)
        sums[numbers] = columns
        return sums
    return np.array([[math.fsum(column) for column in columns[items].T] for items in members])


def _resampled(sums: Float[np.ndarray, "c k"], generator: np.random.Generator, draws: int) -> np.ndarray:
    """Of each draw of as many clusters as there are, and each column, the sum."""
    count, parts = len(sums), []
    rows = max(1, AT_ONCE // count)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = generator.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        parts.append(times.astype(float) @ sums)
    return np.concatenate(parts)


def _divided(columns: Float[np.ndarray, "b k2"]) -> np.ndarray:
    above, below = np.split(columns, 2, axis=1)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A number and where it lies with 95 % confidence."""

    value: float
    low: float | None
    high: float | None
    """None, both: of one cluster nothing is known."""


def interval(value: float, drawn: Float[np.ndarray, " b"], clusters: int) -> Interval:
    """The percentile interval of a value from its draws."""
    kept = drawn[np.isfinite(drawn)]
    if clusters < 2 or not kept.size:
        return Interval(value=value, low=None, high=None)
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def p_value(differences: Float[np.ndarray, " b"]) -> float:
    """How often a difference as far from zero would come of equal systems, from its draws: two-sided, and
    never zero."""
    kept = differences[np.isfinite(differences)]
    least = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(kept) + 1))


def holm(values: Sequence[float]) -> list[float]:
    """p values of several comparisons, such that the smallest of them may be believed, too (Holm 1979)."""
    adjusted, most = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        most = max(most, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = most
    return adjusted


def detectable(differences: Float[np.ndarray, " b"]) -> float:
    """The smallest difference that could be told from none with as many items: 1.96 deviations of it."""
    return float(1.96 * np.std(differences[np.isfinite(differences)]))
