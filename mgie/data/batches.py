"""Example -> Batch, in an order that only (seed, epoch) decide.

The order is one endless sequence of positions. A step takes the next `batch_size` of them, whatever the
number of processes, micro-batches or loader workers; so the state of the data is one integer, the samples
done.
"""

import atexit
import itertools
import signal
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from mgie.data.orders import AbstractOrder, Shuffled, sample_generator
from mgie.data.prefetch import prefetch_map
from mgie.data.regions import together
from mgie.data.streamed import StreamedPairs
from mgie.errors import ConfigError, UserError
from mgie.tokens import IGNORE
from mgie.types import Batch, EditPair, Example, Pictures

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals that ask a run to stop. Schedulers and terminals send them to all of its processes."""


@runtime_checkable
class Builder(Protocol):
    """Anything that makes a pair into an example."""

    pad_id: int
    """What fills up shorter conversations."""

    def together(self, extras: Sequence[Mapping[str, Tensor]], mask: Tensor, /) -> Mapping[str, Tensor]:
        """The extras of examples as those of their batch (AbstractPrompts.together)."""
        ...

    def __call__(
        self, pair: EditPair, rng: np.random.Generator, features: Mapping[str, Tensor] | None = None, /
    ) -> Example:
        """`rng` is the sample's own, `features` what was stored of the pair. Raises DataError, naming it."""
        ...


class Batches(Dataset):
    """The batches of one process: `steps(start)` gives, for each optimizer step, its micro-batches."""

    def __init__(
        self, pairs: Sequence[EditPair] | Dataset | StreamedPairs, builder: Builder, *, seed: int,
        batch_size: int, micro_batch_size: int, rank: int = 0, world: int = 1, workers: int = 0,
        order: AbstractOrder | None = None,
    ):  # fmt: skip
        """`pairs` are held by number, alone or beside their stored features, or pass by. `batch_size` counts
        the samples of a step over all `world` processes; this is process `rank` of them. `workers` loader
        processes read ahead (threads, of a stream); 0 reads when asked. `order` replaces the plain shuffle by
        (seed, epoch), for buckets and mixtures; a stream has its own."""
        share = batch_size // world
        if batch_size < 1 or batch_size % world or micro_batch_size < 1 or share % micro_batch_size:
            parts = f"micro-batches of {micro_batch_size} on {world} process(es)"
            expected = f"expected a multiple of {max(micro_batch_size, 1) * world}"
            raise ConfigError(f"a batch of {batch_size} cannot be split into {parts}: {expected}.")
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self._pairs: Any = pairs
        self._builder, self._seed = builder, seed
        self._rank, self._share, self._workers = rank, share, workers
        if not isinstance(pairs, StreamedPairs):
            self.order = order or Shuffled(len(pairs), seed=seed)  # type: ignore[arg-type]

    @property
    def epoch(self) -> int:
        """Samples of one epoch. Raises ConfigError for a stream of unknown length."""
        return len(self._pairs) if isinstance(self._pairs, StreamedPairs) else self.order.epoch

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[list[Batch]]:
        """The micro-batches of each step, from the sample `start` on; endless without `stop`. Both are
        multiples of batch_size."""
        if start % self.batch_size:
            expected = f"expected a multiple of the batch size {self.batch_size}"
            raise ConfigError(f"the data cannot go on at sample {start}: {expected}.")
        passing = isinstance(self._pairs, StreamedPairs)
        micros = (self._passing if passing else self._loaded)(start, stop)
        # A program that ends meanwhile would wait for workers, which its signals do not reach.
        atexit.register(_close, weakref.ref(micros))
        while step := list(itertools.islice(micros, self._share // self.micro_batch_size)):
            yield step

    def __getitem__(self, span: tuple[int, int]) -> Batch | UserError:
        """The micro-batch of these positions; asked for in the loader's workers."""
        try:
            found = [(at, self._pairs[n]) for at, n in zip(range(*span), self.order.take(*span).tolist())]
            examples = [self._example(at, *(row if isinstance(row, tuple) else (row,))) for at, row in found]
            return self._batch(examples, tuple(range(*span)))
        except UserError as error:  # a worker would wrap it into a page of traceback
            return error

    def _example(self, position: int, pair: EditPair, *stored: Any) -> Example:
        return self._builder(pair, sample_generator(self._seed, position), *stored)

    def _batch(self, examples: Sequence[Example], positions: tuple[int, ...]) -> Batch:
        batch = collate(examples, positions=positions, pad_id=self._builder.pad_id)
        return replace(batch, extras=self._builder.together([each.extras for each in examples], batch.mask))

    def _loaded(self, start: int, stop: int | None) -> Generator[Batch, None, None]:
        """This process's micro-batches of pairs that are asked for by number."""
        loader = DataLoader(
            self, sampler=self._spans(start, stop),  # type: ignore[arg-type]
            batch_size=None, num_workers=self._workers, prefetch_factor=4 if self._workers else None,
            generator=torch.Generator().manual_seed(0),  # of no consequence; keeps the global one untouched
        )  # fmt: skip
        # Signals are kept waiting meanwhile: the workers never get them, and end with their parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            micros = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            for micro in micros:
                if isinstance(micro, UserError):
                    raise micro
                yield micro
        finally:
            del micros  # and with it its workers, though a traceback should keep this frame

    def _passing(self, start: int, stop: int | None) -> Generator[Batch, None, None]:
        """This process's micro-batches of pairs that pass by: all are read, its own are decoded."""
        placed = self._pairs.placed(
            start, seed=self._seed, wanted=lambda place: place % self.batch_size // self._share == self._rank
        )
        until = itertools.takewhile(lambda row: stop is None or row[0] < stop, placed)
        ready = prefetch_map(lambda row: (row[0], self._example(*row)), until, workers=self._workers)
        while micro := list(itertools.islice(ready, self.micro_batch_size)):
            positions, examples = zip(*micro)
            yield self._batch(examples, positions)

    def _spans(self, start: int, stop: int | None) -> Iterator[tuple[int, int]]:
        """Positions of this process's micro-batches."""
        steps = itertools.count(start, self.batch_size)
        for step in itertools.takewhile(lambda step: stop is None or step < stop, steps):
            first = step + self._rank * self._share
            for micro in range(first, first + self._share, self.micro_batch_size):
                yield micro, micro + self.micro_batch_size


def _close(there: "weakref.ref[Generator]") -> None:
    if generator := there():
        generator.close()


def collate(examples: Sequence[Example], *, positions: tuple[int, ...], pad_id: int) -> Batch:
    """Examples side by side, padded on the right to the longest. Where an example asks for states beyond its
    last token but one (it was built as the reference builds it), they are read at the end of the padded
    batch, as the reference does."""

    def each(name: str) -> list[Any]:
        return [getattr(example, name) for example in examples]

    def moments(name: str) -> Sequence[Tensor | None]:
        """Means and deviations, where they were stored."""
        there = getattr(examples[0], name) is not None
        return torch.stack(each(name)).float().chunk(2, dim=1) if there else (None, None)

    input_ids = pad_sequence(each("input_ids"), batch_first=True, padding_value=pad_id)
    labels = pad_sequence(each("labels"), batch_first=True, padding_value=IGNORE)
    lengths, longest = torch.tensor([*map(len, each("input_ids"))]), input_ids.shape[1]
    read_at = torch.stack(each("read_at"))
    target_mean, target_std = moments("target_moments")
    return Batch(
        input_ids=input_ids, labels=labels, mask=torch.arange(longest) < lengths[:, None],
        read_at=read_at - (read_at[:, -1:] - (longest - 2)).clamp(min=0),
        clip_pixels=torch.cat(each("clip_pixels")),
        features=torch.cat(each("clip_features")) if examples[0].clip_features is not None else None,
        source=torch.stack(each("source")), has_source=torch.tensor(each("has_source")),
        target=torch.stack(each("target")), source_mean=moments("source_moments")[0],
        target_mean=target_mean, target_std=target_std, keys=tuple(each("key")), positions=positions,
        pictures=_inside(examples), loss_mask=_masks(each("loss_mask")),
        weight=torch.tensor(each("weight")) if {*each("weight")} != {1.0} else None,
        controls=together(each("controls")) if examples[0].controls is not None else None,
    )  # fmt: skip


def _masks(masks: Sequence[Tensor | None]) -> Tensor | None:
    """Masks side by side; ones for who has none. None where nobody has one."""
    like = next((mask for mask in masks if mask is not None), None)
    if like is None:
        return None
    return torch.stack([torch.ones_like(like) if mask is None else mask for mask in masks])


def _inside(examples: Sequence[Example]) -> Pictures | None:
    """Pictures inside instructions, one after the other; None without any."""
    at = [
        torch.stack([torch.full_like(each.pictures_at, row), each.pictures_at], dim=1)
        for row, each in enumerate(examples)
        if each.pictures_at is not None
    ]
    pixels = [each.pictures for each in examples if each.pictures is not None]
    return Pictures(at=torch.cat(at), pixels=torch.cat(pixels)) if pixels else None
