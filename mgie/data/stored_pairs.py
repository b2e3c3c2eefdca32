"""EditPair <-> a data set on disk, through `datasets`: Arrow folders that are memory-mapped as they lie.

    DIR/train, DIR/test    `datasets.load_from_disk` opens them
    DIR/README.md          the data set's card
    DIR/facts.json         counts, hashes, and the arguments that made it

The bytes of a picture's file are stored as they came. A data set is written beside its place and renamed when it is whole.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features, Image, Value, load_from_disk

from mgie.errors import DataError, DeviceError
from mgie.types import EditPair

FEATURES = Features(
    {
        "key": Value("string"),
        "source": Image(),
        "target": Image(),
        "mask": Image(),
        "instruction": Value("string"),
        "expressive": Value("string"),
        "task": Value("string"),
        "kind": Value("string"),
        "session": Value("string"),
        "turn": Value("int32"),
        "weight": Value("float64"),
        "meta": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
    }
)
"""Columns of a stored data set. `width` and `height` are the target's, upright; `meta` is JSON."""
PICTURES = ("source", "target", "mask")
SHARD_BYTES = 500_000_000
BATCH_BYTES = 32_000_000
BATCH_ROWS = 256
FACTS = "facts.json"
CARD = "README.md"


@dataclass
class Shard:
    """What is known of one file of a split."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass
class SplitFacts:
    """What is known of one split when it has been written."""

    rows: int = 0
    sha256: str = ""
    """Hash over the rows, whatever files they lie in."""
    shards: list[Shard] = field(default_factory=list)


class StoredPairs:
    """One split of a data set on disk: `len`, `[index] -> EditPair`. Nothing is read before it is asked for."""

    def __init__(self, folder: str | Path, split: str):
        self.folder = Path(folder)
        self.split = split
        if not (self.folder / FACTS).is_file():
            raise DataError(
                f"{folder} is no data set (it has no {FACTS}): expected a folder that `mgie prepare ... --out {folder}` wrote."
            )
        if not (self.folder / split).is_dir():
            found = sorted(path.parent.name for path in self.folder.glob("*/state.json"))
            raise DataError(f"{folder} has no split {split!r}: expected one of {', '.join(found) or 'none'}.")
        try:
            self.rows: Dataset = load_from_disk(str(self.folder / split))  # type: ignore[assignment]
            self._table = self.rows.data
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise DataError(
                f"{self.folder / split} cannot be opened ({_line(error)}): it is damaged; prepare the data set again."
            ) from error

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> EditPair:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)} in {self.folder / self.split}")
        row = {
            name: column[0].as_py()
            for name, column in zip(FEATURES, self._table.fast_slice(index, 1).columns)
        }
        return from_row(row)

    def __iter__(self) -> Iterator[EditPair]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredPairs, (self.folder, self.split)

    @property
    def lengths(self) -> np.ndarray:
        """Characters of text per pair: what length buckets go by. No picture is read."""
        column = self._table.column
        counts = pc.add(pc.utf8_length(column("instruction")), pc.utf8_length(column("expressive")))
        return counts.to_numpy()

    @property
    def sides(self) -> np.ndarray:
        """Width and height of each pair's target, n x 2. No picture is read."""
        return np.stack([self._table.column(name).to_numpy() for name in ("width", "height")], axis=1)

    @property
    def weights(self) -> np.ndarray:
        """How much each pair counts."""
        return self._table.column("weight").to_numpy()

    @property
    def keys(self) -> list[str]:
        """The names of all pairs, in order."""
        return self._table.column("key").to_pylist()


def read_facts(folder: str | Path) -> dict[str, Any] | None:
    """What facts.json of a data set says; None where there is no data set. Raises DataError if it cannot be read."""
    path = Path(folder) / FACTS
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({_line(error)}): prepare the data set again.") from error


@contextmanager
def new_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and is removed when it does not.

    Raises DataError if `out` holds something already, DeviceError if the disk is full or must not be written to.
    """
    out = Path(out)
    partial = out.parent / f".{out.name}.partial"
    if out.exists() and not out.is_dir():
        raise DataError(
            f"{out} is a file: expected the name of a folder to be written; choose another --out."
        )
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise DataError(f"{out} holds something else already: choose another --out, or remove it first.")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if out.is_dir():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise _device_error(error, out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_split(pairs: Iterable[tuple[EditPair, tuple[int, int]]], folder: Path, split: str) -> SplitFacts:
    """Write pairs (with the width and height of each target) as one `datasets` folder, in memory that does not grow."""
    folder.mkdir(parents=True)
    facts, total, writer = SplitFacts(), hashlib.sha256(), None
    try:
        for rows, size in _chunks(pairs):
            for row in rows:
                total.update(row_hash(row))
            if writer is not None and writer.bytes + size > SHARD_BYTES:
                facts.shards.append(writer.close())
                writer = None
            if writer is None:
                writer = _ShardWriter(folder / f"data-{len(facts.shards):05d}.arrow")
            writer.write(rows)
            facts.rows += len(rows)
        if writer is None:
            writer = _ShardWriter(folder / "data-00000.arrow")
        facts.shards.append(writer.close())
    finally:
        if writer is not None:
            writer.abandon()
    facts.sha256 = total.hexdigest()
    state = {
        "_data_files": [{"filename": shard.file} for shard in facts.shards],
        "_fingerprint": facts.sha256[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True))
    DatasetInfo(features=FEATURES).write_to_directory(str(folder))
    return facts


def to_row(pair: EditPair, size: tuple[int, int]) -> dict[str, Any]:
    """A pair as the columns of FEATURES."""
    row: dict[str, Any] = {name: getattr(pair, name) for name in FEATURES if hasattr(pair, name)}
    for name in PICTURES:
        row[name] = None if row[name] is None else {"bytes": row[name], "path": None}
    row["meta"] = json.dumps(pair.meta, ensure_ascii=False, sort_keys=True) if pair.meta else ""
    row["width"], row["height"] = size
    return row


def from_row(row: dict[str, Any]) -> EditPair:
    """The pair that `to_row` made into columns."""
    values = {name: value for name, value in row.items() if name not in ("width", "height")}
    for name in PICTURES:
        values[name] = values[name] and values[name]["bytes"]
    values["meta"] = json.loads(values["meta"]) if values["meta"] else {}
    return EditPair(**values)


def row_hash(row: dict[str, Any]) -> bytes:
    """SHA-256 of one row, the same on every machine and for every file format."""
    digest = hashlib.sha256()
    for name in FEATURES:
        value = row[name]
        if name in PICTURES:
            value = b"\0" if value is None else b"\1" + value["bytes"]
        else:
            value = repr(value).encode()
        digest.update(len(value).to_bytes(8, "little"))
        digest.update(value)
    return digest.digest()


class _HashedFile:
    """A file that Arrow writes to, hashed on the way."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self.hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: pa.Buffer | bytes) -> int:
        self.hash.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True
        self._file.close()


class _ShardWriter:
    """One Arrow stream file."""

    def __init__(self, path: Path):
        self._path = path
        self._file = _HashedFile(path)
        self._stream = pa.ipc.new_stream(self._file, FEATURES.arrow_schema)
        self._rows = 0

    @property
    def bytes(self) -> int:
        return self._file.bytes

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=FEATURES.arrow_schema))
        self._rows += len(rows)

    def close(self) -> Shard:
        """End the file; what is known of it."""
        self._stream.close()
        self._file.close()
        return Shard(
            file=self._path.name, rows=self._rows, bytes=self._file.bytes, sha256=self._file.hash.hexdigest()
        )

    def abandon(self) -> None:
        """Let go of the file, whatever state it is in."""
        self._file.close()


def _chunks(pairs: Iterable[tuple[EditPair, tuple[int, int]]]) -> Iterator[tuple[list[dict[str, Any]], int]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for pair, sides in pairs:
        rows.append(to_row(pair, sides))
        size += sum(len(data) for name in PICTURES if (data := getattr(pair, name)))
        if len(rows) == BATCH_ROWS or size >= BATCH_BYTES:
            yield rows, size
            rows, size = [], 0
    if rows:
        yield rows, size


def _device_error(error: OSError, out: Path) -> DeviceError:
    reasons = {
        28: "the disk is full",
        13: "there is no permission to write there",
        30: "that disk is read-only",
    }
    reason = reasons.get(error.errno or 0, _line(error))
    return DeviceError(
        f"{out} cannot be written: {reason}; nothing was left half-written, choose another --out."
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
