"""Pairs in tables: Parquet files, Arrow folders and hub ids, read row by row. Pictures are not decoded."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import IterableDataset, load_dataset
from huggingface_hub import HfApi

from mgie.data.sources.base import HELD_OUT, SPLITS, Options, Rows, Splits, each, split_name
from mgie.data.stored_pairs import StoredPairs, from_row, stored_splits
from mgie.data.validation import Rejected
from mgie.errors import ConfigError, DataError
from mgie.types import EditPair

FromRow = Callable[[dict[str, Any], int], EditPair]
"""A row and its number -> a pair. Raises Rejected."""
LONGEST_GROUP = 1000
"""How many neighbouring rows of a table are looked at to keep a group in one split."""


def is_table(where: str) -> bool:
    """Whether `where` is a folder of Parquet files, or no folder but a hub id (OWNER/NAME)."""
    if Path(where).exists():
        return bool(parquet_files(Path(where)))
    return where.count("/") == 1 and not where.startswith((".", "/", "~"))


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """Split -> its Parquet files in `folder` or `folder`/data. The first word of a name says which."""
    found: dict[str, list[str]] = {}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        if path.is_file():
            word = re.split(r"[-_.]", path.name.lower())[0]
            found.setdefault(SPLITS.get(word, "train"), []).append(str(path))
    return found


def identity(where: str) -> str:
    """What tells a table from another without reading it: names and sizes of its files, or id and revision on
    the hub. Raises DataError where the hub does not answer."""
    if Path(where).exists():
        files = sorted(Path(path) for paths in parquet_files(Path(where)).values() for path in paths)
        return repr([(path.name, path.stat().st_size) for path in files])
    try:
        return f"{where} {HfApi().dataset_info(where, timeout=10).sha}"
    except Exception as error:  # the client's own types of errors differ between versions
        raise DataError(
            f"{where} is neither a folder nor a hub id that can be reached ({type(error).__name__}): "
            "download it first."
        ) from error


def open_tables(where: str) -> dict[str, IterableDataset]:
    """Split -> a stream of rows with pictures as {"bytes", "path"}. Raises DataError where nothing can be
    opened."""
    try:
        if Path(where).exists():
            streams = load_dataset("parquet", data_files=parquet_files(Path(where)), streaming=True)
        else:
            HfApi().dataset_info(
                where, timeout=10
            )  # fails at once where the library would try for half a minute
            streams = load_dataset(where, streaming=True)
    except Exception as error:  # the library raises many kinds, most of them for "not there" and "no network"
        raise DataError(
            f"{where} is neither a folder nor a hub id that can be reached ({type(error).__name__}): "
            "download it first."
        ) from error
    opened: dict[str, IterableDataset] = {}
    for split, stream in streams.items():
        name = split_name(str(split), where)
        if name in opened:
            raise DataError(f"{where} has the split {name} under two names: expected one; rename the other.")
        opened[name] = stream.decode(False)
    return {split: opened[split] for split in sorted(opened, key=lambda name: (name != "train", name))}


def read_set(folder: str | Path) -> dict[str, Iterable[EditPair]]:
    """The pairs of a data set that `mgie prepare` wrote, as Arrow or Parquet files, split by split."""
    if not parquet_files(Path(folder)):
        return {split: StoredPairs(folder, split) for split in stored_splits(folder)}
    streams = open_tables(str(folder))
    return {split: map(from_row, read_rows(stream, str(folder))) for split, stream in streams.items()}


def read_splits(
    where: str, read: FromRow, options: Options, *, needs: tuple[str, ...], group: str = ""
) -> Splits:
    """The rows of a table as pairs. Where there is only one split, its end is held out, cut where `group`
    changes."""
    streams = open_tables(where)
    for split, stream in streams.items():
        missing = [name for name in needs if name not in (stream.column_names or needs)]
        if missing:
            raise DataError(
                f"{where} ({split}) has no column {missing[0]}: it has "
                f"{', '.join(stream.column_names or ())}."
            )
    tests = {}
    if set(streams) == {"train"}:
        cut, total = _cut(where, streams["train"], group, options)
        if cut < total:
            tests = {"test": _rows(streams["train"].skip(cut), where, read, first=cut)}
        streams["train"] = streams["train"].take(cut)
    if options.count is not None and "train" in streams:
        streams["train"] = streams["train"].take(options.count)
    return {split: _rows(stream, where, read) for split, stream in streams.items()} | tests


def picture(row: dict[str, Any], column: str, key: str, role: str) -> bytes:
    """The bytes of a picture in a table. Raises Rejected where there are none."""
    cell = row[column]
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise Rejected(key, "missing partner", f"{key} has no {role}: expected the bytes of a picture.")
    return data


def read_rows(rows: Iterable[Any], where: str) -> Iterator[Any]:
    """The rows of a stream, or its tables. Raises DataError where a file is damaged."""
    try:
        yield from rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"a file of {where} is damaged ({type(error).__name__}): download it again."
        ) from error


def _rows(stream: IterableDataset, where: str, read: FromRow, *, first: int = 0) -> Rows:
    return each(lambda at: read(at[1], at[0]), enumerate(read_rows(stream, where), first))


def file_rows(where: str, split: str, stream: IterableDataset) -> list[int | None]:
    """How many rows each file of a split has; None of those on a hub, which does not tell."""
    paths = parquet_files(Path(where)).get(split, []) if Path(where).exists() else []
    opened = read_rows((pq.ParquetFile(path).metadata.num_rows for path in paths), where)
    return list(opened) or [None] * stream.num_shards


def count_rows(where: str, split: str, stream: IterableDataset) -> int:
    """How many rows a split has, as its files or its hub say. Raises ConfigError where nobody says."""
    rows = file_rows(where, split, stream)
    known = [count for count in rows if count is not None]
    if len(known) == len(rows):
        return sum(known)
    for name, info in (stream.info.splits or {}).items():
        if split_name(str(name), where) == split and info.num_examples:
            return info.num_examples
    raise ConfigError(f"{where} does not say how many rows it has: download it, or choose another source.")


def _cut(where: str, stream: IterableDataset, group: str, options: Options) -> tuple[int, int]:
    """Number of the first held-out row, and of all rows."""
    total = count_rows(where, "train", stream)
    cut = math.floor((1 - HELD_OUT) * total) if options.test is None else total - options.test
    if cut < 1:
        cut = total
    if group and cut < total:
        before = max(cut - LONGEST_GROUP, 0)
        values = [row[group] for row in stream.select_columns([group]).skip(before).take(cut - before + 1)]
        while len(values) > 1 and values[-2] == values[-1]:
            values.pop()
        cut = before + len(values) - 1 or total
    return cut, total
