"""In which order pairs are seen, as only (seed, epoch) decide it. Endless sequences of their numbers.

A position of the sequence can be asked for directly, so a run resumes anywhere without reading what came
before.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mgie.errors import ConfigError

Last = Literal["straddle", "drop", "pad"]
"""What becomes of the last, incomplete step of an epoch: it is filled from the next epoch, left out, or
filled again from
the beginning of its own epoch."""


class AbstractOrder(ABC):
    """An endless sequence of the numbers of pairs."""

    epoch: int
    """Positions until every pair has had its turn."""

    @abstractmethod
    def take(self, start: int, stop: int) -> np.ndarray:
        """The numbers of the pairs at positions start..stop-1."""


class AbstractEpochs(AbstractOrder):
    """Epochs of one length laid end to end, each arranged by (seed, epoch)."""

    _cached: tuple[int, np.ndarray] | None = None

    @abstractmethod
    def arrange(self, epoch: int) -> np.ndarray:
        """The numbers of one epoch, in order."""

    def take(self, start: int, stop: int) -> np.ndarray:
        """The numbers of the pairs at positions start..stop-1."""
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            epoch, offset = divmod(start, self.epoch)
            if self._cached is None or self._cached[0] != epoch:
                self._cached = (epoch, self.arrange(epoch))
            parts.append(self._cached[1][offset : offset + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)


class Shuffled(AbstractEpochs):
    """Every pair once per epoch, each epoch in a new order."""

    def __init__(self, count: int, *, seed: int, batch_size: int = 1, last: Last = "straddle"):
        self.epoch = epoch_length(count, batch_size, last)
        self._count, self._seed = count, seed

    def arrange(self, epoch: int) -> np.ndarray:
        """The numbers of one epoch, in order."""
        return np.resize(generator(self._seed, epoch).permutation(self._count), self.epoch)


class Bucketed(AbstractEpochs):
    """Every pair once per epoch, in steps whose pairs are alike; steps in a new order each epoch.

    `buckets` gives each pair the number of its bucket: pairs of different buckets never share a step, so
    the last step of every bucket must be dropped or padded. Within a bucket pairs are shuffled.
    """

    def __init__(self, buckets: np.ndarray, *, seed: int, batch_size: int, last: Last = "pad"):
        if last == "straddle":
            raise ConfigError("last='straddle' would mix buckets in a step: choose 'drop' or 'pad'.")
        groups = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        lengths = [
            len(group) // batch_size if last == "drop" else -(-len(group) // batch_size) for group in groups
        ]
        self.epoch = sum(lengths) * batch_size
        if not self.epoch:
            raise ConfigError(
                f"no bucket holds a whole batch of {batch_size}: lower the batch size, or choose last='pad'."
            )
        self._seed, self._batch_size = seed, batch_size
        self._groups = [(group, length) for group, length in zip(groups, lengths) if length]

    def arrange(self, epoch: int) -> np.ndarray:
        """The numbers of one epoch, in order."""
        random = generator(self._seed, epoch)
        steps = [
            np.resize(random.permutation(group), (length, self._batch_size)) for group, length in self._groups
        ]
        return random.permutation(np.concatenate(steps), axis=0).reshape(-1)


class ByLength(AbstractEpochs):
    """Every pair once per epoch, in steps of about equal length, so that little is padded.

    Each epoch is shuffled, cut into windows of `window` steps, sorted by length within each window, and the
    steps of a window are shuffled again. A step may straddle two epochs.
    """

    def __init__(
        self, lengths: np.ndarray, *, seed: int, batch_size: int, last: Last = "straddle", window: int = 50
    ):
        self._plain = Shuffled(len(lengths), seed=seed, batch_size=batch_size, last=last)
        self.epoch = self._plain.epoch
        self._lengths, self._seed, self._batch_size, self._window = (
            lengths,
            seed,
            batch_size,
            window * batch_size,
        )

    def arrange(self, epoch: int) -> np.ndarray:
        """The numbers of one epoch, in order."""
        order = self._plain.arrange(epoch)
        # Steps begin at multiples of the batch size over all epochs: what comes before the first one stays.
        first = -(epoch * self.epoch) % self._batch_size
        random = generator(self._seed, epoch, 1)
        parts = [order[:first]]
        for start in range(first, len(order), self._window):
            part = order[start : start + self._window]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            whole = len(part) // self._batch_size * self._batch_size
            steps = part[:whole].reshape(-1, self._batch_size)
            parts += [random.permutation(steps, axis=0).reshape(-1), part[whole:]]
        return np.concatenate(parts)


def by_shape(sides: np.ndarray, shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The bucket of each picture (n x 2: width, height): the number of the nearest of `shapes`."""
    return _nearest(sides, shapes)


def aspect_shapes(size: int, *, step: int = 64, longest: float = 2.0) -> list[tuple[int, int]]:
    """Shapes (width, height) of about `size` x `size` pixels, sides multiples of `step`, up to `longest` :
    1."""
    found = {}
    for side in range(step, int(size * longest) + step, step):
        other = max(round(size * size / side / step), 1) * step
        if max(side / other, other / side) <= longest:
            found |= {side / other: (side, other), other / side: (other, side)}
    return [found[ratio] for ratio in sorted(found)]


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


def generator(seed: int, *path: int) -> np.random.Generator:
    """The random generator that (seed, path) names; the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *path])))


def sample_generator(seed: int, position: int) -> np.random.Generator:
    """The generator of one sample's augmentation: a function of its position in the run's order.

    What training draws for the sample has the same key (mgie/training/draws.py) and is elsewhere in the
    stream: this begins 2**192 blocks further on.
    """
    return np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1]))


def nearest_shape(size: tuple[int, int], shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Which of `shapes` (width, height) is nearest to a picture's, by the logarithm of width : height."""
    return shapes[int(_nearest(np.array([size]), shapes)[0])]


def _nearest(sides: np.ndarray, shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    ratios = np.log(np.array([width / height for width, height in shapes]))
    return np.abs(np.log(sides[:, 0] / sides[:, 1])[:, None] - ratios).argmin(axis=1)
