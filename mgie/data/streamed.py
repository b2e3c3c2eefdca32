"""Data from a hub id, or larger than the disk: read in passing, never stored.

The order is again a function of (seed, epoch): files are shuffled, and rows within windows. It is the same
for any number of processes; each of them reads the whole stream and decodes its own share. A run resumes
exactly: with the library's own state, which `state_dict` hands out and a file remembers, at once; without
it by reading up to where it was.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgie.data.batches import AbstractStream
from mgie.data.orders import generator
from mgie.data.sources import ipr2pr, magicbrush, tables
from mgie.data.stored_pairs import FEATURES, NEWER, from_row
from mgie.data.validation import Rejected
from mgie.errors import ConfigError, DataError
from mgie.types import EditPair

WINDOW = 1000
"""Rows that are shuffled among each other."""
ROWS_PER_FILE = 10_000_000
"""More than a file holds: a row without a name is called by its file and its place there."""
KEPT_STATES = 64

State = dict[str, Any]
"""Where a stream stands: epoch, windows done, place among the shuffled files, and the library's state within
that file."""


class StreamedPairs(AbstractStream):
    """Pairs of a table, window by window."""

    def __init__(
        self,
        where: str,
        *,
        split: str = "train",
        window: int | None = None,
        memory: Path | None = None,
        notes: bool = True,
    ):
        """`where` is a hub id or a folder of Parquet files, with the columns of InstructPix2Pix, MagicBrush
        or our own. So many rows as `window` says are shuffled among each other; None: a thousand.

        `memory` is a file that remembers where the stream stood after each window; of several processes one
        makes the `notes`, and all look there when they go on. Raises DataError where `where` cannot be opened
        or has other columns.
        """
        streams = tables.open_tables(where)
        if split not in streams:
            raise DataError(f"{where} has no split {split!r}: expected one of {', '.join(streams)}.")
        self._stream, self._where, self._split = streams[split], where, split
        self._window, self._memory, self._notes = window or WINDOW, memory, notes
        self._read_row = _reader(where, list(self._stream.column_names or ()))
        self._states: dict[int, State] = {}

    def __len__(self) -> int:
        return tables.count_rows(self._where, self._split, self._stream)

    def state_dict(self, samples: int) -> dict[str, Any]:
        """What lets another run go on at sample `samples` without reading what came before; plain data for
        JSON."""
        position = max((place for place in self._states if place <= samples), default=None)
        return {} if position is None else {"position": position, "state": self._states[position]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._states = {int(state["position"]): state["state"]} if state else {}

    def placed(self, start: int, *, seed: int) -> Iterator[tuple[int, EditPair]]:
        """Positions and pairs of all epochs, from the last known state before `start` on."""
        self._recall(seed)
        position = max((place for place in self._states if place <= start), default=0)
        state = self._states.get(position)
        epoch = state["epoch"] if state else 0
        while True:
            before = position
            for window, behind in self._windows(seed, epoch, state):
                self._note(position + len(window), behind)
                yield from enumerate(window, position)
                position += len(window)
            if position == before and state is None:
                raise DataError("the stream has no rows: expected at least one pair.")
            epoch, state = epoch + 1, None

    def _windows(self, seed: int, epoch: int, state: State | None) -> Iterator[tuple[list[EditPair], State]]:
        """Windows of one epoch from `state` on, each shuffled, with the state behind it."""
        files = generator(seed, epoch).permutation(self._stream.num_shards).tolist()
        first, number = (state["file"], state["window"]) if state else (0, 0)
        window: list[EditPair] = []

        def shuffled() -> list[EditPair]:
            return [window[at] for at in generator(seed, epoch, number).permutation(len(window))]

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
                    whole, number, window = shuffled(), number + 1, []
                    yield whole, {"epoch": epoch, "window": number} | behind
        if window:
            behind = {"epoch": epoch, "window": number + 1, "file": len(files), "rows": 0, "stream": {}}
            yield shuffled(), behind

    def _pair(self, row: dict[str, Any], place: int) -> EditPair:
        try:
            return self._read_row(row, place)
        except Rejected as error:
            raise DataError(f"{self._where}: {error} `mgie prepare` would set this row aside.") from error

    def _note(self, position: int, state: State) -> None:
        """Remember where the stream stands behind `position`."""
        if position in self._states:
            return
        self._states[position] = state
        if self._memory is None:
            for old in sorted(self._states)[:-KEPT_STATES]:
                del self._states[old]
        elif self._notes:
            with self._memory.open("a") as file:
                file.write(json.dumps({"position": position, "state": state}) + "\n")

    def _recall(self, seed: int) -> None:
        """Look into the memory, and begin it where it is not there or belongs to another order."""
        if self._memory is None:
            return
        files = self._stream.num_shards
        identity = {"files": files, "rows": self._rows(), "window": self._window, "seed": seed}
        self._states = _read_states(self._memory, identity)
        if self._notes:
            lines = [identity, *({"position": at, "state": state} for at, state in self._states.items())]
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            beside = self._memory.with_suffix(".new")
            beside.write_text("".join(json.dumps(line) + "\n" for line in lines))
            beside.replace(self._memory)

    def _rows(self) -> int | None:
        try:
            return len(self)
        except ConfigError:  # a hub need not say how many there are
            return None


def _read_states(memory: Path, identity: dict[str, Any]) -> dict[int, State]:
    """Position -> state, of an earlier run of the same order; nothing where there is none."""
    if not memory.is_file():
        return {}
    *whole, _ = memory.read_bytes().split(b"\n")  # the rest is empty, or a line that was cut off
    try:
        first, *rows = [json.loads(line) for line in whole]
        return {int(row["position"]): row["state"] for row in rows} if first == identity else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _reader(where: str, columns: list[str]) -> tables.FromRow:
    """What makes a row with these columns into a pair."""
    if set(FEATURES) - set(NEWER) <= set(columns):
        return lambda row, _: from_row(row)
    for module in (ipr2pr, magicbrush):
        if set(module.COLUMNS) <= set(columns):
            return module.from_table_row
    raise DataError(
        f"{where} has the columns {', '.join(columns) or 'none'}: expected those of InstructPix2Pix, "
        "of MagicBrush, or "
        "those that `mgie prepare --format parquet` writes."
    )
