"""Data from a hub id, or larger than the disk: read in passing, never stored.

Files are shuffled by (seed, epoch), and rows within windows, alike for any number of processes: each reads
the whole stream, and makes pairs of its own rows alone. Where a position lies follows from the numbers of
rows of the files, so a run goes on anywhere at once; a hub does not tell them, and what was learnt in passing
is noted.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from mgie.data.files import MALFORMED
from mgie.data.orders import generator
from mgie.data.sources import ipr2pr, magicbrush, tables
from mgie.data.stored_pairs import FEATURES, NEWER, from_row
from mgie.data.validation import Rejected
from mgie.errors import DataError
from mgie.types import EditPair

WINDOW = 1000
"""Rows that are shuffled among each other."""
BATCH = 100
"""Rows that are read at a time."""
PLACE = "place in the source"
"""Column: what a row without a name is called by, its file and its place there."""
ROWS_PER_FILE = 10_000_000
"""More than a file holds."""


class StreamedPairs:
    """Pairs of a table, window by window: they have an order, but no numbers to ask for."""

    def __init__(
        self, where: str, *, split: str = "train", window: int | None = None,
        memory: Path | None = None, notes: bool = True,
    ):  # fmt: skip
        """`where` is a hub id or a folder of Parquet files, with the columns of InstructPix2Pix, MagicBrush
        or our own. So many rows as `window` says are shuffled among each other; None: a thousand. `memory` is
        a file that remembers how many rows the files of a hub have; of several processes one makes the
        `notes`, and all look there. Raises DataError where `where` cannot be opened or has other columns."""
        streams = tables.open_tables(where)
        if split not in streams:
            raise DataError(f"{where} has no split {split!r}: expected one of {', '.join(streams)}.")
        self._stream, self._where, self._split = streams[split].with_format("arrow"), where, split
        self._window, self._memory, self._notes = window or WINDOW, memory, notes
        self._read_row = _reader(where, list(self._stream.column_names or ()))
        self._rows = tables.file_rows(where, split, self._stream)
        if memory and memory.is_file() and None in self._rows:
            with suppress(*MALFORMED):  # then it is noted anew
                noted = [None if rows is None else int(rows) for rows in json.loads(memory.read_text())]
                self._rows = noted if len(noted) == len(self._rows) else self._rows

    def __len__(self) -> int:
        return tables.count_rows(self._where, self._split, self._stream)

    def placed(
        self, start: int, *, seed: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, EditPair]]:
        """Those positions and pairs of all epochs that are `wanted`, from `start` on."""
        position = epoch = 0
        while True:
            files = generator(seed, epoch).permutation(len(self._rows)).tolist()
            first = max(start - position, 0) // self._window * self._window
            for window in self._windows(files, first):
                order = generator(seed, epoch, first // self._window).permutation(len(window))
                for place, row in enumerate(order.tolist(), position + first):
                    if place >= start and wanted(place):
                        yield place, self._pair(window.slice(row, 1))
                first += len(window)
            position, epoch = position + sum(rows or 0 for rows in self._rows), epoch + 1
            if not position:
                raise DataError("the stream has no rows: expected at least one pair.")

    def _windows(self, files: list[int], first: int) -> Iterator[pa.Table]:
        """Windows of an epoch, from its row `first` on."""
        pending: list[pa.Table] = []
        for file in files:
            stream, at, known = self._stream.shard(len(files), file), 0, self._rows[file]
            if known is not None:
                at, first = min(first, known), max(first - known, 0)
                stream = stream.skip(at)
            if at == known:
                continue
            batches = stream.iter(batch_size=min(BATCH, self._window))
            for table in tables.told(batches, self._where):
                places = pa.array(file * ROWS_PER_FILE + np.arange(at, at + len(table)))
                pending.append(table.append_column(PLACE, places).slice(first))
                at, first = at + len(table), max(first - len(table), 0)
                if sum(map(len, pending)) >= self._window:
                    joined = pa.concat_tables(pending)
                    yield joined.slice(0, self._window)
                    pending = [joined.slice(self._window)]
            if known is None:
                self._rows[file] = at
            if known is None and self._memory and self._notes:
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                beside = self._memory.with_suffix(".new")
                beside.write_text(json.dumps(self._rows))
                beside.replace(self._memory)
        if sum(map(len, pending)):
            yield pa.concat_tables(pending)

    def _pair(self, row: pa.Table) -> EditPair:
        values = row.to_pylist()[0]
        try:
            return self._read_row(values, values[PLACE])
        except Rejected as error:
            raise DataError(f"{self._where}: {error} `mgie prepare` would set this row aside.") from error


def _reader(where: str, columns: list[str]) -> tables.FromRow:
    """What makes a row with these columns into a pair."""
    if set(FEATURES) - set(NEWER) <= set(columns):
        return lambda row, _: from_row(row)
    for module in (ipr2pr, magicbrush):
        if set(module.COLUMNS) <= set(columns):
            return module.from_table_row
    expected = "of InstructPix2Pix, of MagicBrush, or those that `mgie prepare --format parquet` writes"
    raise DataError(f"{where} has the columns {', '.join(columns) or 'none'}: expected those {expected}.")
