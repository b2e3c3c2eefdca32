"""Pairs in tables: Parquet files, Arrow folders and hub ids, read row by row. Pictures are not decoded."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import IterableDataset, load_dataset
from huggingface_hub import HfApi

from mgie.data.sources.base import SPLITS, Options, Rows, Splits, learnt, split_name
from mgie.data.stored_pairs import StoredPairs, from_row, stored_splits
from mgie.data.validation import Rejected, each
from mgie.errors import ConfigError, DataError
from mgie.types import EditPair

FromRow = Callable[[dict[str, Any], int], EditPair]
"""A row and its number -> a pair. Raises Rejected."""
LONGEST_GROUP = 1000
"""How many neighbouring rows of a table are looked at to keep a group in one split."""


def is_table(where: str) -> bool:
    """Whether `where` is a folder of Parquet files, or no folder but a hub id (OWNER/NAME)."""
    if Path(where).exists():
        return bool(parquet_files(where))
    return where.count("/") == 1 and not where.startswith((".", "/", "~"))


def parquet_files(where: str | Path) -> dict[str, list[str]]:
    """Split -> its Parquet files in a folder or its `data`. The first word of a name says which."""
    found: dict[str, list[str]] = {}
    for path in sorted([*Path(where).glob("*.parquet"), *Path(where).glob("data/*.parquet")]):
        if path.is_file():
            word = re.split(r"[-_.]", path.name.lower())[0]
            found.setdefault(SPLITS.get(word, "train"), []).append(str(path))
    return found


def identity(where: str) -> str:
    """What tells a table from another unread: names and sizes of its files, or id and revision on the hub.
    Raises DataError where the hub does not answer."""
    if not Path(where).exists():
        return f"{where} {_asked(where, lambda: HfApi().dataset_info(where, timeout=10).sha)}"
    files = sorted(Path(path) for paths in parquet_files(where).values() for path in paths)
    return repr([(path.name, path.stat().st_size) for path in files])


def open_tables(where: str) -> dict[str, IterableDataset]:
    """Split -> a stream of rows with pictures as {"bytes", "path"}. Raises DataError where nothing opens."""
    identity(where)  # fails at once where the library would try for half a minute
    local = ("parquet", {"data_files": parquet_files(where)})
    name, files = local if Path(where).exists() else (where, {})
    opened: dict[str, IterableDataset] = {}
    for word, stream in _asked(where, lambda: load_dataset(name, **files, streaming=True)).items():
        split = split_name(str(word), where)
        if split in opened:
            raise DataError(f"{where} has the split {split} under two names: expected one; rename the other.")
        opened[split] = stream.decode(False)
    return dict(sorted(opened.items(), key=lambda item: (item[0] != "train", item[0])))


def read_set(folder: str | Path) -> dict[str, Iterable[EditPair]]:
    """The pairs of a data set that `mgie prepare` wrote, as Arrow or Parquet files, split by split."""
    if not parquet_files(folder):
        return {split: StoredPairs(folder, split) for split in stored_splits(folder)}
    streams = open_tables(str(folder)).items()
    return {split: map(from_row, told(stream, str(folder))) for split, stream in streams}


def read_splits(where: str, read: FromRow, options: Options, *, needs: Sequence[str], group: str) -> Splits:
    """The rows of a table as pairs. Of a single split the end is held out, cut where `group` changes."""
    streams, tests = open_tables(where), {}
    for split, stream in streams.items():
        columns = stream.column_names or needs
        if missing := [name for name in needs if name not in columns]:
            raise DataError(f"{where} ({split}) has no column {missing[0]}: it has {', '.join(columns)}.")

    def rows(stream: IterableDataset, first: int = 0) -> Rows:
        return each(lambda row: read(row[1], row[0]), enumerate(told(stream, where), first))

    if set(streams) == {"train"}:
        whole = streams["train"]
        total = count_rows(where, "train", whole)
        cut = learnt(total, options)
        if cut < total:
            before = max(cut - LONGEST_GROUP, 0)
            near = whole.select_columns([group]).skip(before).take(cut - before + 1)
            values = [row[group] for row in told(near, where)]
            while len(values) > 1 and values[-2] == values[-1]:
                values.pop()
            cut = before + len(values) - 1 or total
        tests = {"test": rows(whole.skip(cut), cut)} if cut < total else {}
        streams["train"] = whole.take(cut)
    if options.count is not None and "train" in streams:
        streams["train"] = streams["train"].take(options.count)
    return {split: rows(stream) for split, stream in streams.items()} | tests


def picture(row: dict[str, Any], column: str, key: str, role: str) -> bytes:
    """The bytes of a picture in a table. Raises Rejected where there are none."""
    data = row[column].get("bytes") if isinstance(row[column], dict) else row[column]
    if not isinstance(data, bytes) or not data:
        raise Rejected(key, "missing partner", f"{key} has no {role}: expected the bytes of a picture.")
    return data


def told(rows: Iterable[Any], where: str) -> Iterator[Any]:
    """The rows of a stream, or its tables. Raises DataError where a file is damaged."""
    try:
        yield from rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = type(error).__name__
        raise DataError(f"a file of {where} is damaged ({kind}): download it again.") from error


def file_rows(where: str, split: str, stream: IterableDataset) -> list[int | None]:
    """How many rows each file of a split has; None of those on a hub, which does not tell."""
    opened = (pq.ParquetFile(path).metadata.num_rows for path in parquet_files(where).get(split, []))
    return list(told(opened, where)) or [None] * stream.num_shards


def count_rows(where: str, split: str, stream: IterableDataset) -> int:
    """How many rows a split has, as its files or its hub say. Raises ConfigError where nobody says."""
    rows = file_rows(where, split, stream)
    if None not in rows:
        return sum(filter(None, rows))
    for name, info in (stream.info.splits or {}).items():
        if split_name(str(name), where) == split and info.num_examples:
            return info.num_examples
    raise ConfigError(f"{where} does not say how many rows it has: download it, or choose another source.")


def _asked(where: str, question: Callable[[], Any]) -> Any:
    """What the library or the hub answers; they raise many kinds, most for "not there" and "no network"."""
    try:
        return question()
    except Exception as error:
        what = f"neither a folder nor a hub id that can be reached ({type(error).__name__})"
        raise DataError(f"{where} is {what}: download it first.") from error
