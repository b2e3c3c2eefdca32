"""Writing the files of a split: Arrow streams that are memory-mapped as they lie, or Parquet for the hub.

Rows come one by one and leave in files of about 500 MB, so memory does not grow with the data. Every file
is hashed while it is written.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo

from llava_patch.folders import file_hash
from mgie.data.stored_pairs import FEATURES, PICTURES, data_identity, read_facts, row_hash, to_row
from mgie.data.validation import is_name
from mgie.errors import DataError
from mgie.types import EditPair

SHARD_BYTES = 500_000_000
BATCH_BYTES = 32_000_000
BATCH_ROWS = 256
WHOLE_BYTES = 1_000_000_000
"""A data set of up to so many bytes is hashed whole when it is opened for training: a second or two."""
SAMPLES, SAMPLE_BYTES = 16, 1 << 16
"""What is looked at of each file of a larger one: so many blocks."""
Sized = tuple[EditPair, tuple[int, int]]
"""A pair, and the upright width and height of its target."""


@dataclass
class Shard:
    """What is known of one file of a split."""

    file: str
    """Its path within the data set."""
    rows: int
    bytes: int
    sha256: str
    sample: str = ""
    """`sampled_hash` of it."""


@dataclass
class SplitFacts:
    """What is known of one split when it has been written."""

    rows: int = 0
    sha256: str = ""
    """Hash over the rows, whatever files they lie in."""
    shards: list[Shard] = field(default_factory=list)


class AbstractWriter(ABC):
    """One open file."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""

    @abstractmethod
    def end(self) -> None:
        """Write what belongs at the end of the file."""


class ArrowWriter(AbstractWriter):
    """An Arrow stream, as `datasets` keeps it."""

    def __init__(self, file: "HashedFile"):
        self._stream = pa.ipc.new_stream(file, FEATURES.arrow_schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._stream.write_batch(batch)

    def end(self) -> None:
        """Write the end mark."""
        self._stream.close()


class ParquetWriter(AbstractWriter):
    """A Parquet file, one row group per batch."""

    def __init__(self, file: "HashedFile"):
        self._writer = pq.ParquetWriter(file, FEATURES.arrow_schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._writer.write_batch(batch)

    def end(self) -> None:
        """Write the footer."""
        self._writer.close()


class HashedFile:
    """A file that Arrow writes to, hashed on the way."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self.hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: pa.Buffer | bytes) -> int:
        """Append bytes."""
        self.hash.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self.bytes

    def flush(self) -> None:
        """Hand over to the system what is buffered."""
        self._file.flush()

    def close(self) -> None:
        """Close; again is no mistake."""
        self.closed = True
        self._file.close()


def write_arrow(pairs: Iterable[Sized], folder: Path, split: str) -> SplitFacts:
    """Write `folder`/`split` as `datasets.load_from_disk` reads it."""
    (folder / split).mkdir(parents=True)
    facts = _write_shards(pairs, folder, f"{split}/data-{{:05d}}.arrow", ArrowWriter)
    state = {
        "_data_files": [{"filename": Path(shard.file).name} for shard in facts.shards],
        "_fingerprint": facts.sha256[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / split / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True))
    DatasetInfo(features=FEATURES).write_to_directory(str(folder / split))
    return facts


def write_parquet(pairs: Iterable[Sized], folder: Path, split: str) -> SplitFacts:
    """Write `folder`/data/`split`-00000-of-0000N.parquet, as hubs read it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    facts = _write_shards(pairs, folder, f"data/{split}-{{:05d}}.parquet", ParquetWriter)
    for number, shard in enumerate(facts.shards):
        name = f"data/{split}-{number:05d}-of-{len(facts.shards):05d}.parquet"
        (folder / shard.file).rename(folder / name)
        shard.file = name
    return facts


def check_unchanged(folder: str | Path) -> str:
    """The identity (`data_identity`) of a data set whose files are those that were written: what training
    asks for first.

    Up to WHOLE_BYTES every byte is compared. Of a larger data set sizes and some blocks of each file are, by
    which any other file is known, though not a few changed words; `mgie prepare --check` compares all. Raises
    DataError at the first fault.
    """
    identity, facts = data_identity(folder), read_facts(folder) or {}
    size = sum(path.stat().st_size for path in Path(folder).glob("*/*.arrow"))
    check_files(Path(folder), facts, sampled=size > WHOLE_BYTES)
    return identity


def check_files(folder: Path, facts: dict[str, Any], *, sampled: bool = False) -> dict[str, list[Shard]]:
    """The files of each split, all there and with the bytes that were written; `sampled`: with their size
    and some of the bytes. Raises DataError at the first fault."""
    try:
        splits = {
            name: [Shard(**shard) for shard in about["shards"]] for name, about in facts["splits"].items()
        }
        names = [*splits, *(shard.file for shards in splits.values() for shard in shards)]
        if not all(is_name(name) for name in names):
            raise ValueError("a path leads out of the folder")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{folder}/facts.json is not what `mgie prepare` writes ({type(error).__name__}): prepare the "
            "data set again."
        ) from error
    for shard in (shard for shards in splits.values() for shard in shards):
        check_bytes(folder / shard.file, shard.bytes, shard.sha256, shard.sample if sampled else "")
    return splits


def check_bytes(path: Path, size: int, sha256: str, sample: str = "") -> None:
    """Raise DataError unless a file has these bytes: the `sample` of them where one is given, else all."""
    if not path.is_file():
        raise DataError(f"{path} is missing: copy it again, or prepare it again.")
    if path.stat().st_size != size:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, expected {size}: copy it again, or prepare it again."
        )
    if sampled_hash(path) != sample if sample else file_hash(path) != sha256:
        raise DataError(
            f"{path} is not what was written (another SHA-256): copy it again, or prepare it again."
        )


def sampled_hash(path: Path) -> str:
    """SHA-256 of a file's size and of some blocks of it, evenly spread, the first and the last among them."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(size - SAMPLE_BYTES, 0) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _write_shards(pairs: Iterable[Sized], folder: Path, name: str, kind: type[AbstractWriter]) -> SplitFacts:
    facts, total = SplitFacts(), hashlib.sha256()
    batches = _batches(pairs)
    first = next(batches, [])
    while first or not facts.shards:
        shard = Shard(file=name.format(len(facts.shards)), rows=0, bytes=0, sha256="")
        file = HashedFile(folder / shard.file)
        try:
            writer = kind(file)  # type: ignore[call-arg]
            while first:
                for row in first:
                    total.update(row_hash(row))
                writer.write(pa.RecordBatch.from_pylist(first, schema=FEATURES.arrow_schema))
                shard.rows += len(first)
                first = next(batches, [])
                if file.bytes + sum(map(_picture_bytes, first)) > SHARD_BYTES:
                    break
            writer.end()
        finally:
            file.close()
        shard.bytes, shard.sha256 = file.bytes, file.hash.hexdigest()
        shard.sample = sampled_hash(folder / shard.file)
        facts.rows += shard.rows
        facts.shards.append(shard)
    facts.sha256 = total.hexdigest()
    return facts


def _batches(pairs: Iterable[Sized]) -> Iterator[list[dict[str, Any]]]:
    """Rows in portions that fit into memory."""
    rows: list[dict[str, Any]] = []
    size = 0
    for pair, sides in pairs:
        rows.append(to_row(pair, sides))
        size += _picture_bytes(rows[-1])
        if len(rows) == BATCH_ROWS or size >= BATCH_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _picture_bytes(row: dict[str, Any]) -> int:
    return sum(len(row[name]["bytes"]) for name in PICTURES if row[name])
