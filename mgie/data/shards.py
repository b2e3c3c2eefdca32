"""The files of a split: Arrow, memory-mapped as it lies, or Parquet for the hub.

Rows come one by one and leave in files of about 500 MB, so memory does not grow with the data.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llava_patch.folders import file_hash
from mgie.data.stored_pairs import FEATURES, Shard, SplitFacts, read_facts, row_hash, split_facts, to_row
from mgie.data.validation import Sized
from mgie.errors import DataError

SHARD_BYTES = 500_000_000
BATCH_BYTES = 32_000_000
BATCH_ROWS = 256
WHOLE_BYTES = 1_000_000_000
"""Up to so many bytes are compared whole when they are opened for training: a second or two."""
SAMPLES, SAMPLE_BYTES = 16, 1 << 16
"""What is looked at of each file of more: so many blocks."""


def write_arrow(pairs: Iterable[Sized], folder: Path, split: str) -> SplitFacts:
    """Write `folder`/`split`/data-00000.arrow and so on."""
    return _write(pairs, folder, f"{split}/data-{{:05d}}.arrow", pa.ipc.new_stream)


def write_parquet(pairs: Iterable[Sized], folder: Path, split: str) -> SplitFacts:
    """Write `folder`/data/`split`-00000-of-0000N.parquet, as hubs read it."""
    facts = _write(pairs, folder, f"data/{split}-{{:05d}}.parquet", pq.ParquetWriter)
    for shard in facts.shards:
        name = shard.file.replace(".parquet", f"-of-{len(facts.shards):05d}.parquet")
        (folder / shard.file).rename(folder / name)
        shard.file = name
    return facts


def about_file(folder: Path, file: str, rows: int) -> Shard:
    """What is to be known of a file that has been written."""
    path = folder / file
    return Shard(file, rows, path.stat().st_size, file_hash(path), sampled_hash(path))


def check_set(folder: str | Path, *, sampled: bool = False) -> dict[str, Any]:
    """The facts of a data set whose files are those that were written; training asks for a sample of large
    ones, `mgie prepare --check` for every byte. Raises DataError."""
    facts = read_facts(folder)
    shards = [shard for about in split_facts(facts).values() for shard in about.shards]
    check_files(Path(folder), shards, sampled=sampled)
    return facts


def check_files(folder: Path, files: list[Shard], *, sampled: bool) -> None:
    """Raise DataError unless all files are there, with the bytes that were written. `sampled`: where they
    are more than WHOLE_BYTES, sizes and some blocks of each are compared, by which any other file is known,
    though not a few changed words."""
    sampled = sampled and sum(file.bytes for file in files) > WHOLE_BYTES
    for file in files:
        path, wrong = folder / file.file, ""
        if not path.is_file():
            wrong = "is missing"
        elif path.stat().st_size != file.bytes:
            wrong = f"has {path.stat().st_size} bytes, expected {file.bytes}"
        elif sampled_hash(path) != file.sample if sampled and file.sample else file_hash(path) != file.sha256:
            wrong = "is not what was written (another SHA-256)"
        if wrong:
            raise DataError(f"{path} {wrong}: copy it again, or prepare it again.")


def sampled_hash(path: Path) -> str:
    """SHA-256 of a file's size and of some blocks of it, evenly spread, the first and the last among them."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(size - SAMPLE_BYTES, 0) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _write(pairs: Iterable[Sized], folder: Path, name: str, kind: Callable[..., Any]) -> SplitFacts:
    """Write files of `kind`, which begins one, called `name` with their numbers."""
    facts, total, batches = SplitFacts(), hashlib.sha256(), _batches(pairs)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    rows = next(batches, [])
    while rows or not facts.shards:
        file, written = name.format(len(facts.shards)), 0
        with pa.OSFile(str(folder / file), "wb") as out, kind(out, FEATURES.arrow_schema) as writer:
            while rows and (not written or out.tell() < SHARD_BYTES):
                for row in rows:
                    total.update(row_hash(row))
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=FEATURES.arrow_schema))
                written += len(rows)
                rows = next(batches, [])
        facts.shards.append(about_file(folder, file, written))
        facts.rows += written
    facts.sha256 = total.hexdigest()
    return facts


def _batches(pairs: Iterable[Sized]) -> Iterator[list[dict[str, Any]]]:
    """Rows in portions that fit into memory."""
    rows: list[dict[str, Any]] = []
    size = 0
    for pair, sides in pairs:
        rows.append(to_row(pair, sides))
        masks = (pair.mask, *(region.mask for region in pair.regions))
        size += sum(len(data or b"") for data in (pair.source, pair.target, *pair.pictures, *masks))
        if len(rows) == BATCH_ROWS or size >= BATCH_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows
