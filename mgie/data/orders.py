"""In which order pairs are seen: endless sequences of their numbers that only (seed, epoch) decide.

A position of the sequence can be asked for directly, so a run resumes anywhere without reading what came before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import numpy as np

from mgie.errors import ConfigError

Last = Literal["straddle", "drop", "pad"]
"""What becomes of the last, incomplete step of an epoch: it is filled from the next epoch, left out, or filled again from
the beginning of its own epoch."""


class AbstractOrder(ABC):
    """An endless sequence of the numbers of pairs."""

    epoch: int
    """Positions until every pair has had its turn."""

    @abstractmethod
    def take(self, start: int, stop: int) -> np.ndarray:
        """The numbers of the pairs at positions start..stop-1."""


class Shuffled(AbstractOrder):
    """Every pair once per epoch, each epoch in a new order."""

    def __init__(self, count: int, *, seed: int, batch_size: int = 1, last: Last = "straddle"):
        self.epoch = epoch_length(count, batch_size, last)
        self._count, self._seed = count, seed
        self._cached: tuple[int, np.ndarray] | None = None

    def take(self, start: int, stop: int) -> np.ndarray:
        """The numbers of the pairs at positions start..stop-1."""
        return take_epochs(self._permuted, self.epoch, start, stop)

    def _permuted(self, epoch: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != epoch:
            order = generator(self._seed, epoch).permutation(self._count)
            self._cached = (epoch, np.resize(order, self.epoch))
        return self._cached[1]


def epoch_length(count: int, batch_size: int, last: Last) -> int:
    """Positions of an epoch of `count` pairs. Raises ConfigError where there would be none."""
    if count < 1:
        raise ConfigError("the data set is empty: expected at least one pair; prepare it again.")
    if last == "straddle":
        return count
    steps = count // batch_size if last == "drop" else -(-count // batch_size)
    if not steps:
        raise ConfigError(
            f"{count} pairs make no whole batch of {batch_size}: expected at least one; lower the batch size."
        )
    return steps * batch_size


def take_epochs(epoch_order: Callable[[int], np.ndarray], length: int, start: int, stop: int) -> np.ndarray:
    """Positions start..stop-1 of epochs laid end to end, each `length` long."""
    parts = [np.empty(0, dtype=np.int64)]
    while start < stop:
        epoch, offset = divmod(start, length)
        parts.append(epoch_order(epoch)[offset : offset + stop - start])
        start += len(parts[-1])
    return np.concatenate(parts)


def generator(seed: int, *path: int) -> np.random.Generator:
    """The random generator that (seed, path) names; the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *path])))
