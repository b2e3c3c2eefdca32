"""EditPair <-> a data set on disk, through `datasets`: Arrow folders that are memory-mapped as they lie.

    DIR/train, DIR/test    `datasets.load_from_disk` opens them
    DIR/README.md          the data set's card
    DIR/facts.json         counts, hashes, and the arguments that made it

The bytes of a picture's file are stored as they came.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Features, Image, Value
from datasets.table import MemoryMappedTable, concat_tables

from mgie.data.validation import is_name
from mgie.errors import DataError
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
FACTS = "facts.json"
KIND = "data set"
"""Kind of the folder."""
REJECTED = "rejected.jsonl"


class StoredPairs:
    """One split of a data set on disk: `len`, `[index] -> EditPair`. Nothing is read before asked for."""

    def __init__(self, folder: str | Path, split: str, *, pictures: bool = True):
        """Without `pictures` those of a pair are not read: where there is one, it is empty."""
        self.folder = Path(folder)
        self.split = split
        self.pictures = pictures
        facts = read_facts(folder)
        if facts is None:
            raise DataError(
                f"{folder} is no data set (it has no {FACTS}): expected a folder that `mgie prepare "
                f"... --out {folder}` wrote."
            )
        if not (self.folder / split).is_dir():
            found = ", ".join(stored_splits(folder)) or "none"
            raise DataError(f"{folder} has no split {split!r}: expected one of {found}.")
        try:
            names = [shard["file"] for shard in facts["splits"][split]["shards"]]
            if not all(is_name(name) for name in names):
                raise ValueError(f"{FACTS} names a file outside")
            self._table = concat_tables([MemoryMappedTable.from_file(f"{folder}/{name}") for name in names])
        except Exception as error:  # the library lets through whatever a damaged file makes it stumble over
            raise DataError(
                f"{self.folder / split} cannot be opened ({_line(error)}): it is damaged; prepare the "
                "data set again."
            ) from error
        if not self._table.schema.equals(FEATURES.arrow_schema):
            raise DataError(f"{self.folder / split} has other columns: prepare the data set again.")

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> EditPair:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)} in {self.folder / self.split}")
        cells = zip(FEATURES, (column[0] for column in self._table.fast_slice(index, 1).columns))
        if self.pictures:
            return from_row({name: cell.as_py() for name, cell in cells})
        unread = {"bytes": b""}
        return from_row(
            {
                name: cell.as_py() if name not in PICTURES else unread if cell.is_valid else None
                for name, cell in cells
            }
        )

    def __iter__(self) -> Iterator[EditPair]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(StoredPairs, pictures=self.pictures), (self.folder, self.split)

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
    def sessions(self) -> dict[str, list[int]]:
        """The multi-turn view: name of a session -> the numbers of its pairs, in the order of their turns."""
        names, turns = (self._table.column(name).to_pylist() for name in ("session", "turn"))
        found: dict[str, list[int]] = {}
        for index in sorted(range(len(self)), key=lambda index: turns[index]):
            if names[index]:
                found.setdefault(names[index], []).append(index)
        return found

    @property
    def keys(self) -> list[str]:
        """The names of all pairs, in order."""
        return self._table.column("key").to_pylist()


def stored_splits(folder: str | Path) -> list[str]:
    """Names of the splits of a data set on disk, "train" first."""
    found = (path.parent.name for path in Path(folder).glob("*/state.json"))
    return sorted(found, key=lambda name: (name != "train", name))


def read_facts(folder: str | Path) -> dict[str, Any] | None:
    """What facts.json of a data set says; None where there is no data set. Raises DataError if it cannot be
    read."""
    path = Path(folder) / FACTS
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"it holds {type(facts).__name__}")
        return facts
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({_line(error)}): prepare the data set again.") from error


def data_identity(folder: str | Path) -> str:
    """SHA-256 over the names and rows of all splits of a data set, as its facts tell them: what a run was
    trained on. The same whatever files the rows lie in; nothing but facts.json is read. Raises DataError."""
    facts = read_facts(folder)
    if facts is None:
        raise DataError(f"{folder} is no data set (it has no {FACTS}): expected one by `mgie prepare`.")
    try:
        rows = sorted((str(split), str(about["sha256"])) for split, about in facts["splits"].items())
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}/{FACTS} names no splits: prepare the data set again.") from error
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
