"""Training from a hub id, or from Parquet files larger than the disk: read in passing, never stored.

The order is again a function of (seed, epoch): files are shuffled, and rows within windows. It is the same
for any number of processes; each of them reads the whole stream and decodes its own share. A run resumes
exactly: with the library's own state, which `state_dict` hands out, at once; without it by reading up to
where it was.
"""

from collections.abc import Iterator
from typing import Any

from mgie.data.ahead import map_ahead
from mgie.data.batches import Builder, collate
from mgie.data.orders import generator
from mgie.data.rejects import Rejected
from mgie.data.sources import ipr2pr, magicbrush, tables
from mgie.data.stored_pairs import FEATURES, from_row
from mgie.errors import ConfigError, DataError
from mgie.types import Batch, EditPair, Example

WINDOW = 1000
"""Rows that are shuffled among each other."""
ROWS_PER_FILE = 10_000_000
"""More than a file holds: a row without a name is called by its file and its place there."""
KEPT_STATES = 64

State = dict[str, Any]
"""Where a stream stands: epoch, windows done, place among the shuffled files, and the library's state within
that file."""
Placed = tuple[int, EditPair]
"""A position of the data order, and its pair."""


class StreamedPairs:
    """Pairs of a table, window by window."""

    def __init__(self, where: str, *, split: str = "train", seed: int, window: int = WINDOW):
        """`where` is a hub id or a folder of Parquet files, with the columns of InstructPix2Pix, MagicBrush
        or our own.

        Raises DataError where it cannot be opened or has other columns.
        """
        streams = tables.open_tables(where)
        if split not in streams:
            raise DataError(f"{where} has no split {split!r}: expected one of {', '.join(streams)}.")
        self._stream, self._where, self._seed, self._window = streams[split], where, seed, window
        self._read_row = _reader(where, list(self._stream.column_names or ()))

    def windows(
        self, epoch: int, state: dict[str, Any] | None = None
    ) -> Iterator[tuple[list[EditPair], State]]:
        """Windows of one epoch from `state` on, each shuffled, with the state behind it."""
        files = generator(self._seed, epoch).permutation(self._stream.num_shards).tolist()
        first, number = (state["file"], state["window"]) if state else (0, 0)
        window: list[EditPair] = []
        for place in range(first, len(files)):
            stream = self._stream.shard(len(files), files[place])
            done = 0
            if state and place == first:
                stream.load_state_dict(state["stream"])
                done = state["rows"]
            for row in tables.read_rows(stream, self._where):
                window.append(self._pair(row, files[place] * ROWS_PER_FILE + done))
                done += 1
                if len(window) == self._window:
                    behind = {"file": place, "rows": done, "stream": stream.state_dict()}
                    shuffled, number, window = self._shuffled(window, epoch, number), number + 1, []
                    yield shuffled, {"epoch": epoch, "window": number} | behind
        if window:
            behind = {"epoch": epoch, "window": number + 1, "file": len(files), "rows": 0, "stream": {}}
            yield self._shuffled(window, epoch, number), behind

    def _shuffled(self, window: list[EditPair], epoch: int, number: int) -> list[EditPair]:
        return [window[index] for index in generator(self._seed, epoch, number).permutation(len(window))]

    def _pair(self, row: dict[str, Any], place: int) -> EditPair:
        pair = self._read_row(row, place)
        if isinstance(pair, Rejected):
            raise DataError(f"{self._where}: {pair.detail} `mgie prepare` would set this row aside.")
        return pair


class StreamedBatches:
    """What Batches is for pairs on disk, for pairs that pass by."""

    def __init__(
        self,
        pairs: StreamedPairs,
        builder: Builder,
        *,
        batch_size: int,
        micro_batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
    ):
        """`batch_size` counts the samples of a step over all `world` processes; `workers` threads decode
        ahead."""
        share = batch_size // world
        if batch_size < 1 or batch_size % world or micro_batch_size < 1 or share % micro_batch_size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be split into micro-batches of {micro_batch_size} on "
                f"{world} "
                f"process(es): expected a multiple of {max(micro_batch_size, 1) * world}."
            )
        self._pairs, self._builder, self._workers = pairs, builder, workers
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self._rank, self._share = rank, share
        self._states: dict[int, dict[str, Any]] = {}

    def state_dict(self, samples: int) -> dict[str, Any]:
        """What lets another run go on at sample `samples` without reading what came before; plain data for
        JSON."""
        position = max((place for place in self._states if place <= samples), default=None)
        return {} if position is None else {"position": position, "state": self._states[position]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._states = {int(state["position"]): state["state"]} if state else {}

    def steps(self, start: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of each step, from the sample `start` on; endless."""
        if start % self.batch_size:
            raise ConfigError(
                f"the data cannot go on at sample {start}: expected a multiple of {self.batch_size}."
            )
        step: list[Batch] = []
        examples: list[tuple[int, Example]] = []
        for place, example in map_ahead(self._build, self._mine(start), workers=self._workers):
            examples.append((place, example))
            if len(examples) == self.micro_batch_size:
                positions = tuple(place for place, _ in examples)
                step.append(
                    collate([e for _, e in examples], positions=positions, pad_id=self._builder.pad_id)
                )
                examples = []
            if len(step) * self.micro_batch_size == self._share:
                yield step
                step = []

    def _build(self, placed: Placed) -> tuple[int, Example]:
        return placed[0], self._builder(placed[1])

    def _mine(self, start: int) -> Iterator[Placed]:
        """The pairs of this process, from position `start` on."""
        for position, pair in self._placed(start):
            if position >= start and position % self.batch_size // self._share == self._rank:
                yield position, pair

    def _placed(self, start: int) -> Iterator[Placed]:
        """All pairs of all epochs, from the last known state before `start` on."""
        position = max((place for place in self._states if place <= start), default=0)
        state = self._states.get(position)
        epoch = state["epoch"] if state else 0
        while True:
            before = position
            for window, behind in self._pairs.windows(epoch, state):
                self._states[position + len(window)] = behind
                yield from enumerate(window, position)
                position += len(window)
                for old in sorted(self._states)[:-KEPT_STATES]:
                    del self._states[old]
            if position == before and state is None:
                raise DataError("the stream has no rows: expected at least one pair.")
            epoch, state = epoch + 1, None


def _reader(where: str, columns: list[str]):
    """What makes a row with these columns into a pair."""
    if set(FEATURES) <= set(columns):
        return lambda row, _: from_row({name: row[name] for name in FEATURES})
    for module in (ipr2pr, magicbrush):
        if set(module.COLUMNS) <= set(columns):
            return lambda row, place, module=module: next(module.from_table_row(row, place))
    raise DataError(
        f"{where} has the columns {', '.join(columns) or 'none'}: expected those of InstructPix2Pix, "
        "of MagicBrush, or "
        "those that `mgie prepare --format parquet` writes."
    )
