"""Several data sets as one, each with a share of every step. What one alone guarantees, they do.

The sequence of positions is cut into blocks. In each block every source has its exact number of places,
shuffled by (seed, block); a source fills its places with its own endless order. So any position can be
computed directly, every pair of a source has its turn once per epoch of that source, and a weight of 0.3 is
30 % of the samples, not about 30 %. Where the pairs of a step must be alike, whole steps are mixed instead.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mgie.data.orders import AbstractOrder, Shuffled, generator
from mgie.errors import ConfigError

BLOCK = 1000
"""Places of a block: weights are kept to a thousandth."""


class Mixed(AbstractOrder):
    """Shares of several data sets that are laid end to end, each in its own order."""

    def __init__(
        self,
        parts: Sequence[Any],
        weights: Sequence[float | int],
        *,
        seed: int,
        arrange: Callable[[Any, int], AbstractOrder] | None = None,
        unit: int = 1,
    ):
        """`weights` are the shares of `parts`, and need not sum to 1. `arrange(part, seed)` gives each its
        order, shuffled where it is left out; they are mixed by `unit` positions at a time."""
        if len(weights) != len(parts) or not all(0 < weight < float("inf") for weight in weights):
            raise ConfigError(
                f"the weights {list(weights)} do not fit {len(parts)} data sets: give each one above 0."
            )
        own = arrange or (lambda part, its_seed: Shuffled(len(part), seed=its_seed))
        seeds = [int(generator(seed, number, 2).integers(2**63)) for number in range(len(parts))]
        self._orders = [own(part, its_seed) for part, its_seed in zip(parts, seeds)]
        self._starts = np.cumsum([0, *map(len, parts)])
        self._seed, self._unit, self._size = seed, unit, BLOCK * unit
        # Proportional, and exactly BLOCK in all: the largest remainders are rounded up.
        exact = np.array(weights, dtype=float) / sum(weights) * BLOCK
        shares = np.floor(exact).astype(int)
        shares[np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]] += 1
        self._shares = shares.tolist()
        if min(self._shares) < 1:
            raise ConfigError(
                f"the weights {list(weights)} give a data set less than a thousandth: leave it out."
            )
        self.epoch = math.ceil(max(o.epoch / share for o, share in zip(self._orders, self._shares)) * BLOCK)

    def _block(self, number: int) -> np.ndarray:
        places = np.repeat(np.arange(len(self._orders)), self._shares)
        places = np.repeat(generator(self._seed, number).permutation(places), self._unit)
        result = np.empty(len(places), dtype=np.int64)
        for source, (order, share) in enumerate(zip(self._orders, self._shares)):
            begin, count = number * share * self._unit, share * self._unit
            taken = order.take(begin, begin + count)
            result[places == source] = taken + self._starts[source]
        return result
