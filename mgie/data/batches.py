"""Example -> Batch, in an order that only (seed, epoch) decide.

The order is one endless sequence of positions. An optimizer step takes the next `batch_size` of them,
whatever the number of processes, micro-batches or loader workers; so the state of the data is one integer,
the samples done.
"""

import atexit
import itertools
import signal
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mgie.data.orders import AbstractOrder, Last, Shuffled, sample_generator
from mgie.data.prefetch import prefetch_map
from mgie.errors import ConfigError, UserError
from mgie.tokens import IGNORE
from mgie.types import Batch, EditPair, Example

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals that ask a run to stop. Schedulers and terminals send them to all of its processes."""


@runtime_checkable
class Pairs(Protocol):
    """Anything that holds pairs by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class AbstractStream(ABC):
    """Pairs that pass by: they have an order, but no numbers to ask for."""

    @abstractmethod
    def __len__(self) -> int:
        """Pairs of one epoch. Raises ConfigError where nobody knows."""

    @abstractmethod
    def placed(
        self, start: int, *, seed: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, EditPair]]:
        """The `wanted` positions and their pairs, of the endless order that `seed` names from `start` on."""


@runtime_checkable
class Builder(Protocol):
    """Anything that makes a pair into an example."""

    pad_id: int

    def __call__(
        self, pair: EditPair, rng: np.random.Generator, features: Mapping[str, Tensor] | None = None, /
    ) -> Example:
        """`rng` is the sample's own, `features` what was stored of the pair. Raises DataError, naming the
        pair, where it cannot become an example."""
        ...


class Batches:
    """The batches of one process: `steps(start)` gives, for each optimizer step, the list of its
    micro-batches."""

    def __init__(
        self,
        pairs: Pairs | AbstractStream,
        builder: Builder,
        *,
        seed: int,
        batch_size: int,
        micro_batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        last: Last = "straddle",
        order: AbstractOrder | None = None,
        features: Pairs | None = None,
    ):
        """`batch_size` counts the samples of a step over all `world` processes; this is process `rank` of
        them.

        `workers` loader processes read ahead (threads, of a stream); 0 reads when asked. `order` replaces the
        plain shuffle by (seed, epoch), for buckets and mixtures; `last` belongs to the plain shuffle. A
        stream has its own order. `features` are stored ones, by the numbers of their pairs.
        """
        share = batch_size // world
        if batch_size < 1 or batch_size % world or micro_batch_size < 1 or share % micro_batch_size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be split into micro-batches of {micro_batch_size} on "
                f"{world} process(es): "
                f"expected a multiple of {max(micro_batch_size, 1) * world}."
            )
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self._pairs, self._builder, self._features, self._seed = pairs, builder, features, seed
        self._rank, self._share, self._workers = rank, share, workers
        if not isinstance(pairs, AbstractStream):
            self.order = order or Shuffled(len(pairs), seed=seed, batch_size=batch_size, last=last)

    @property
    def epoch(self) -> int:
        """Samples of one epoch. Raises ConfigError for a stream of unknown length."""
        return len(self._pairs) if isinstance(self._pairs, AbstractStream) else self.order.epoch

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[list[Batch]]:
        """The micro-batches of each step, from the sample `start` on; endless without `stop`. Both are
        multiples of batch_size."""
        if start % self.batch_size:
            raise ConfigError(
                f"the data cannot go on at sample {start}: expected a multiple of the batch size "
                f"{self.batch_size}."
            )
        if isinstance(self._pairs, AbstractStream):
            micros = self._passing(self._pairs, start, stop)
        else:
            micros = self._loaded(self._pairs, start, stop)
            # A program that ends meanwhile would wait for its workers, which its signals do not reach.
            atexit.register(_close, weakref.ref(micros))
        step: list[Batch] = []
        for micro in micros:
            step.append(micro)
            if len(step) * self.micro_batch_size == self._share:
                yield step
                step = []

    def _loaded(self, pairs: Pairs, start: int, stop: int | None) -> Generator[Batch, None, None]:
        """This process's micro-batches of pairs that are asked for by number."""
        loader = DataLoader(
            _Micros(pairs, self._features, self._builder, self.order, self._seed),
            sampler=self._spans(start, stop),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
            generator=torch.Generator().manual_seed(0),  # of no consequence; keeps the global one untouched
        )
        with _blocked(*STOPS):
            micros = iter(loader)
        try:
            for micro in micros:
                if isinstance(micro, UserError):
                    raise micro
                yield micro
        finally:
            del micros  # and with it its workers, though a traceback should keep this frame

    def _passing(self, stream: AbstractStream, start: int, stop: int | None) -> Iterator[Batch]:
        """This process's micro-batches of pairs that pass by: all are read, its own are decoded."""

        def mine(position: int) -> bool:
            return position % self.batch_size // self._share == self._rank

        def built(placed: tuple[int, EditPair]) -> tuple[int, Example]:
            return placed[0], self._builder(placed[1], sample_generator(self._seed, placed[0]))

        placed = stream.placed(start, seed=self._seed, wanted=mine)
        until = itertools.takewhile(lambda each: stop is None or each[0] < stop, placed)
        ready = prefetch_map(built, until, workers=self._workers)
        while micro := list(itertools.islice(ready, self.micro_batch_size)):
            positions, examples = zip(*micro)
            yield collate(examples, positions=positions, pad_id=self._builder.pad_id)

    def _spans(self, start: int, stop: int | None) -> Iterator[tuple[int, int]]:
        """Positions of this process's micro-batches."""
        while stop is None or start < stop:
            first = start + self._rank * self._share
            for micro in range(first, first + self._share, self.micro_batch_size):
                yield micro, micro + self.micro_batch_size
            start += self.batch_size


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Keep signals waiting. Processes that are started inside never get them, and end with their parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close(there: "weakref.ref[Generator]") -> None:
    if generator := there():
        generator.close()


class _Micros(Dataset):
    """Positions -> micro-batch; lives in the loader's workers."""

    def __init__(
        self, pairs: Pairs, features: Pairs | None, builder: Builder, order: AbstractOrder, seed: int
    ):
        self._pairs, self._features, self._builder, self._order = pairs, features, builder, order
        self._seed = seed

    def __getitem__(self, span: tuple[int, int]) -> Batch | UserError:
        try:
            numbers = map(int, self._order.take(*span))
            examples = [self._example(*placed) for placed in zip(range(*span), numbers)]
            return collate(examples, positions=tuple(range(*span)), pad_id=self._builder.pad_id)
        except UserError as error:  # a worker would wrap it into a page of traceback
            return error

    def _example(self, position: int, number: int) -> Example:
        stored = () if self._features is None else (self._features[number],)
        return self._builder(self._pairs[number], sample_generator(self._seed, position), *stored)


def collate(examples: Sequence[Example], *, positions: tuple[int, ...], pad_id: int) -> Batch:
    """Examples side by side, padded on the right to the longest.

    Where an example asks for states beyond its last token but one (it was built as the reference builds
    it), they are read at the end of the padded batch, as the reference does.
    """
    longest = max(len(example.input_ids) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_id)
    labels = torch.full((len(examples), longest), IGNORE)
    mask = torch.zeros((len(examples), longest), dtype=torch.bool)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = example.input_ids
        labels[row, :length] = example.labels
        mask[row, :length] = True
    read_at = torch.stack([example.read_at for example in examples])
    overhang = (read_at[:, -1:] - (longest - 2)).clamp(min=0)

    def moments(name: str) -> tuple[Tensor | None, Tensor | None]:
        """Means and deviations of all examples, where they were stored."""
        parts = [getattr(example, name) for example in examples]
        if parts[0] is None:
            return None, None
        mean, deviation = torch.stack(parts).float().chunk(2, dim=1)
        return mean, deviation

    clip = [example.clip_features for example in examples if example.clip_features is not None]
    target_mean, target_std = moments("target_moments")
    return Batch(
        input_ids=input_ids,
        labels=labels,
        mask=mask,
        read_at=read_at - overhang,
        clip_pixels=torch.cat([example.clip_pixels for example in examples]),
        source=torch.stack([example.source for example in examples]),
        has_source=torch.tensor([example.has_source for example in examples]),
        target=torch.stack([example.target for example in examples]),
        keys=tuple(example.key for example in examples),
        positions=positions,
        features=torch.cat(clip) if clip else None,
        source_mean=moments("source_moments")[0],
        target_mean=target_mean,
        target_std=target_std,
    )
