"""In which order pairs are seen, as only (seed, epoch) decide it.

Any position can be asked for, so a run resumes without reading what came before.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mgie.errors import ConfigError
from mgie.types import Size

Last = Literal["straddle", "drop", "pad"]
"""An epoch's last, incomplete step is filled from the next one, left out, or filled again from its own."""
BLOCK = 1000
"""Places of a block of a mixture: weights are kept to a thousandth."""


class AbstractOrder(ABC):
    """An endless sequence of the numbers of pairs, arranged block by block."""

    epoch: int
    """Positions until every pair has had its turn."""
    _size: int | None = None  # positions of a block; None: an epoch is one
    _last: tuple[int, np.ndarray] | None = None

    @abstractmethod
    def _block(self, number: int) -> np.ndarray: ...

    def take(self, start: int, stop: int) -> np.ndarray:
        """The numbers of the pairs at positions start..stop-1."""
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            number, offset = divmod(start, self._size or self.epoch)
            if self._last is None or self._last[0] != number:
                self._last = (number, self._block(number))
            parts.append(self._last[1][offset : offset + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)


class Shuffled(AbstractOrder):
    """Every pair once per epoch, each epoch in a new order."""

    def __init__(self, count: int, *, seed: int, batch_size: int = 1, last: Last = "straddle"):
        if count < 1:
            raise ConfigError("the data set is empty: expected at least one pair; prepare it again.")
        self.epoch = count if last == "straddle" else _whole(count, batch_size, last) * batch_size
        if not self.epoch:
            raise ConfigError(f"{count} pairs make no whole batch of {batch_size}: lower the batch size.")
        self._count, self._seed = count, seed

    def _block(self, number: int) -> np.ndarray:
        return np.resize(generator(self._seed, number).permutation(self._count), self.epoch)


class InOrder(AbstractOrder):
    """Every position is its own number: of pairs that are a function of it (one's own subjects)."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def _block(self, number: int) -> np.ndarray:
        return np.arange(number * self.epoch, (number + 1) * self.epoch)


class Bucketed(AbstractOrder):
    """Every pair once per epoch, in steps whose pairs are alike; steps in a new order each epoch. `buckets`
    gives each pair the number of its bucket: pairs of different buckets never share a step, so the last step
    of every bucket must be dropped or padded. Within a bucket pairs are shuffled."""

    def __init__(self, buckets: np.ndarray, *, seed: int, batch_size: int, last: Last = "pad"):
        if last == "straddle":
            raise ConfigError("last='straddle' would mix buckets in a step: choose 'drop' or 'pad'.")
        groups = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self._groups = [(group, _whole(len(group), batch_size, last)) for group in groups]
        self.epoch = sum(steps for _, steps in self._groups) * batch_size
        if not self.epoch:
            wish = "lower the batch size, or choose last='pad'"
            raise ConfigError(f"no bucket holds a whole batch of {batch_size}: {wish}.")
        self._seed, self._batch_size = seed, batch_size

    def _block(self, number: int) -> np.ndarray:
        random = generator(self._seed, number)
        several = [(random.permutation(group), steps) for group, steps in self._groups if steps]
        all_steps = [np.resize(group, (steps, self._batch_size)) for group, steps in several]
        return random.permutation(np.concatenate(all_steps), axis=0).reshape(-1)


class ByLength(AbstractOrder):
    """Every pair once per epoch, in steps of about equal length, so that little is padded. Each epoch is
    shuffled, cut into windows of `window` steps, sorted by length within each window, and the steps of a
    window are shuffled again. A step may straddle two epochs."""

    def __init__(
        self, lengths: np.ndarray, *, seed: int, batch_size: int, last: Last = "straddle", window: int = 50
    ):
        self._plain = Shuffled(len(lengths), seed=seed, batch_size=batch_size, last=last)
        self.epoch, self._window = self._plain.epoch, window * batch_size
        self._lengths, self._seed, self._batch_size = lengths, seed, batch_size

    def _block(self, number: int) -> np.ndarray:
        start, size = number * self.epoch, self._batch_size
        order, random = self._plain.take(start, start + self.epoch), generator(self._seed, number, 1)
        # Steps begin at multiples of the batch size over all epochs: what comes before the first one stays.
        parts = [order[: -start % size]]
        for first in range(-start % size, len(order), self._window):
            part = order[first : first + self._window]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            whole = len(part) // size * size
            parts += [random.permutation(part[:whole].reshape(-1, size), axis=0).reshape(-1), part[whole:]]
        return np.concatenate(parts)


class Weighted(AbstractOrder):
    """Each pair as often per epoch as its weight says; fractions are rounded anew in each epoch."""

    def __init__(self, weights: np.ndarray, *, seed: int):
        self._ends, self._seed = np.cumsum(weights), seed
        self.epoch = round(float(self._ends[-1])) if len(weights) else 0
        if self.epoch < 1:
            raise ConfigError("the weights of the pairs sum to nothing: give at least one of them 1.")

    def _block(self, number: int) -> np.ndarray:
        # Systematic sampling: evenly spaced points on the summed weights, shifted by one random number.
        random = generator(self._seed, number)
        points = (np.arange(self.epoch) + random.random()) * (self._ends[-1] / self.epoch)
        found = np.searchsorted(self._ends, points, side="right")
        return random.permutation(found.clip(max=len(self._ends) - 1))


class Mixed(AbstractOrder):
    """Shares of several data sets that are laid end to end, each in its own endless order. In each block
    every one has its exact number of places, shuffled by (seed, block): a weight of 0.3 is 30 % of the
    samples, not about 30 %. Where the pairs of a step must be alike, whole steps are mixed."""

    def __init__(
        self, parts: Sequence[Any], weights: Sequence[float | int], *, seed: int, unit: int = 1,
        arrange: Callable[[Any, int], AbstractOrder] = lambda part, seed: Shuffled(len(part), seed=seed),
    ):  # fmt: skip
        """`weights` are the shares of `parts`, and need not sum to 1. `arrange(part, seed)` gives each its
        order, shuffled where it is left out; they are mixed by `unit` positions at a time."""
        told = f"the weights {list(weights)}"
        if len(weights) != len(parts) or not all(0 < weight < float("inf") for weight in weights):
            raise ConfigError(f"{told} do not fit {len(parts)} data sets: give each one above 0.")
        seeds = [int(generator(seed, number, 2).integers(2**63)) for number in range(len(parts))]
        self._orders = [arrange(part, its_seed) for part, its_seed in zip(parts, seeds)]
        self._starts = np.cumsum([0, *map(len, parts)])
        self._seed, self._unit, self._size = seed, unit, BLOCK * unit
        # Proportional, and exactly BLOCK in all: the largest remainders are rounded up.
        exact = np.array(weights, dtype=float) / sum(weights) * BLOCK
        shares = np.floor(exact).astype(int)
        shares[np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]] += 1
        self._shares = shares.tolist()
        if min(self._shares) < 1:
            raise ConfigError(f"{told} give a data set less than a thousandth: leave it out.")
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


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """How one data set is put in order; shape buckets have `shapes` (width, height)."""

    batch_size: int
    last: Last | None = None
    buckets: Literal["length", "shape"] | None = None
    shapes: Sequence[Size] = ()
    pair_weights: bool = False

    def __call__(self, pairs: Any, seed: int) -> AbstractOrder:
        """The order of `pairs` (StoredPairs). Raises ConfigError where there can be none."""
        size, last = self.batch_size, self.last or "straddle"
        if self.pair_weights:
            return Weighted(pairs.weights, seed=seed)
        if self.buckets == "shape":
            numbers = nearest_shapes(pairs.sides, self.shapes)
            return Bucketed(numbers, seed=seed, batch_size=size, last=self.last or "pad")
        if self.buckets == "length":
            return ByLength(pairs.lengths, seed=seed, batch_size=size, last=last)
        return Shuffled(len(pairs), seed=seed, batch_size=size, last=last)


def aspect_shapes(size: int, *, step: int = 64) -> list[Size]:
    """Shapes (width, height) of about `size` x `size` pixels, sides multiples of `step`, up to 2 : 1."""
    found = {}
    for side in range(step, size * 2 + step, step):
        other = max(round(size * size / side / step), 1) * step
        if max(side / other, other / side) <= 2:
            found |= {side / other: (side, other), other / side: (other, side)}
    return [found[ratio] for ratio in sorted(found)]


def nearest_shapes(sides: np.ndarray, shapes: Sequence[Size]) -> np.ndarray:
    """The number of the nearest shape for each picture (n x 2: width, height), by log(width / height)."""
    ratios = np.log(np.array([width / height for width, height in shapes]))
    return np.abs(np.log(sides[:, 0] / sides[:, 1])[:, None] - ratios).argmin(axis=1)


def generator(seed: int, *path: int) -> np.random.Generator:
    """The random generator that (seed, path) names; the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *path])))


def sample_generator(seed: int, position: int) -> np.random.Generator:
    """The generator of one sample's augmentation: a function of its position in the run's order. What
    training draws for the sample has the same key (mgie/training/draws.py) and is elsewhere in the stream:
    this begins 2**192 blocks further on."""
    return np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1]))


def _whole(count: int, batch_size: int, last: Last) -> int:
    """Steps that so many pairs make."""
    return count // batch_size if last == "drop" else -(-count // batch_size)
