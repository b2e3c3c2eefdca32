"""From numbers of single pictures to one for a benchmark: over all, or over groups first."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean that still knows what it is of."""

    sum: float
    count: int

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.sum / self.count if self.count else None


def micro(values: Sequence[float]) -> Mean:
    """Over all values alike. Their order plays no part (the sum is exact)."""
    return Mean(sum=math.fsum(values), count=len(values))


def macro(values: Sequence[float], groups: Sequence[Hashable]) -> Mean:
    """Over groups alike: the mean of the groups' means, each group's weight the same. Sessions, kinds of edit
    and languages are such groups."""
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return micro([math.fsum(each) / len(each) for each in members.values()])
