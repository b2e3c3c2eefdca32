"""Several data sets as one, each with a share of every step. What one alone guarantees, they do.

The sequence of positions is cut into blocks. In each block every source has its exact number of places,
shuffled by (seed, block); a source fills its places with its own endless order. So any position can be
computed directly, every pair of a source has its turn once per epoch of that source, and a weight of 0.3 is
30 % of the samples, not about 30 %. Where the pairs of a step must be alike, whole steps are mixed instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mgie.data.batches import Pairs
from mgie.data.orders import AbstractEpochs, AbstractOrder, Shuffled, generator
from mgie.errors import ConfigError

BLOCK = 1000
"""Positions of a block: weights are kept to a thousandth."""


class Joined:
    """Data sets laid end to end, so that one number names a pair of any of them."""

    def __init__(self, parts: Sequence[Pairs]):
        if not parts:
            raise ConfigError("a mixture of no data sets: name at least one.")
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Any:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        return self.parts[part][index - int(self.starts[part])]


class Mixed(AbstractOrder):
    """The order of a Joined: shares of the sources, each in its own order."""

    def __init__(
        self,
        orders: Sequence[AbstractOrder],
        starts: Sequence[int],
        weights: Sequence[float | int],
        *,
        seed: int,
        unit: int = 1,
    ):
        """`orders` are the sources' own, `starts` where each begins in the Joined; `weights` need not sum to
        1.

        Sources are mixed by so many positions at a time: by whole steps, where a step's pairs must be alike.
        """
        if len(weights) != len(orders) or not all(0 < weight < float("inf") for weight in weights):
            raise ConfigError(
                f"the weights {list(weights)} do not fit {len(orders)} data sets: give each one above 0."
            )
        self._orders, self._starts, self._seed, self._unit = orders, starts, seed, unit
        self._shares = _shares(weights)
        if min(self._shares) < 1:
            raise ConfigError(
                f"the weights {list(weights)} give a data set less than a thousandth: leave it out."
            )
        rounds = (order.epoch / share for order, share in zip(orders, self._shares))
        self.epoch = int(np.ceil(max(rounds) * BLOCK))
        """Positions until the slowest source has been seen once."""

    def take(self, start: int, stop: int) -> np.ndarray:
        """The numbers, in the Joined, of the pairs at positions start..stop-1."""
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            block, offset = divmod(start, BLOCK * self._unit)
            end = min(BLOCK * self._unit, offset + stop - start)
            parts.append(self._block(block, offset, end))
            start += end - offset
        return np.concatenate(parts)

    def _block(self, block: int, begin: int, end: int) -> np.ndarray:
        places = generator(self._seed, block).permutation(
            np.repeat(np.arange(len(self._orders)), self._shares)
        )
        places = np.repeat(places, self._unit)
        result = np.empty(end - begin, dtype=np.int64)
        for source, (order, share) in enumerate(zip(self._orders, self._shares)):
            before = block * share * self._unit + int((places[:begin] == source).sum())
            here = places[begin:end] == source
            result[here] = order.take(before, before + int(here.sum())) + self._starts[source]
        return result


def mixture(
    parts: Sequence[Pairs],
    weights: Sequence[float | int],
    *,
    seed: int,
    arrange: Callable[[Pairs, int], AbstractOrder] | None = None,
    unit: int = 1,
) -> tuple[Joined, Mixed]:
    """Pairs and order for Batches: `weights` are the sources' shares of the samples.

    `arrange(part, seed)` gives each source its own order, shuffled where it is left out; sources are mixed by
    `unit` positions at a time.
    """
    joined = Joined(parts)
    seeds = [_seed(seed, number) for number in range(len(parts))]
    own = arrange or (lambda part, its_seed: Shuffled(len(part), seed=its_seed))
    orders = [own(part, its_seed) for part, its_seed in zip(parts, seeds)]
    return joined, Mixed(orders, joined.starts.tolist(), weights, seed=seed, unit=unit)


class Weighted(AbstractEpochs):
    """Each pair as often per epoch as its weight says; fractions are rounded anew in each epoch."""

    def __init__(self, weights: np.ndarray, *, seed: int):
        self._ends = np.cumsum(weights)
        self.epoch = round(float(self._ends[-1])) if len(weights) else 0
        if self.epoch < 1:
            raise ConfigError(
                "the weights of the pairs sum to nothing: give at least one pair a weight of 1."
            )
        self._seed = seed

    def arrange(self, epoch: int) -> np.ndarray:
        """The numbers of one epoch, in order."""
        # Systematic sampling: evenly spaced points on the summed weights, shifted by one random number.
        random = generator(self._seed, epoch)
        points = (np.arange(self.epoch) + random.random()) * (self._ends[-1] / self.epoch)
        return random.permutation(
            np.searchsorted(self._ends, points, side="right").clip(max=len(self._ends) - 1)
        )


def _shares(weights: Sequence[float | int]) -> list[int]:
    """Places of each source in a block: proportional, and exactly BLOCK in all (largest remainders)."""
    exact = np.array(weights, dtype=float) / sum(weights) * BLOCK
    shares = np.floor(exact).astype(int)
    for source in np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]:
        shares[source] += 1
    return shares.tolist()


def _seed(seed: int, number: int) -> int:
    return int(generator(seed, number, 2).integers(2**63))
