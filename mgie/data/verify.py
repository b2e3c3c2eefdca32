"""`mgie prepare --check DIR`: is a data set still what its facts say, file by file, row by row, picture by
picture? Stored features too."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mgie.data.shards import check_files
from mgie.data.sources import tables
from mgie.data.stored_features import check_features
from mgie.data.stored_pairs import FACTS, StoredPairs, from_row, read_facts, row_hash, to_row
from mgie.data.validation import BadPair, check
from mgie.errors import DataError
from mgie.types import EditPair

Watch = Callable[[Iterable[Any], str], Iterable[Any]]


def verify(folder: str | Path, watch: Watch | None = None) -> dict[str, Any]:
    """The facts of a data set that is whole. Raises DataError that names the first fault."""
    folder = Path(folder)
    facts = read_facts(folder)
    if facts is None:
        raise DataError(
            f"{folder} is no data set (it has no {FACTS}): expected a folder that `mgie prepare` wrote."
        )
    shards = check_files(folder, facts)
    for name in shards if facts["arguments"].get("format", "arrow") != "legacy" else ():
        about = facts["splits"][name]
        found = _rows(folder, name, facts)
        _check_rows(folder / name, watch(found, name) if watch else found, about["rows"], about["sha256"])
    check_features(folder)
    return facts


def _rows(folder: Path, split: str, facts: dict[str, Any]) -> Iterator[EditPair]:
    if facts["arguments"].get("format", "arrow") == "arrow":
        yield from StoredPairs(folder, split)
    else:
        yield from map(from_row, tables.read_rows(tables.open_tables(str(folder))[split], str(folder)))


def _check_rows(name: Path, pairs: Iterable[EditPair], rows: int, sha256: str) -> None:
    total, keys = hashlib.sha256(), set()
    for number, pair in enumerate(pairs):
        try:
            size = check(pair)
        except BadPair as error:
            raise DataError(f"pair {number} of {name}: {error}") from error
        total.update(row_hash(to_row(pair, size)))
        keys.add(pair.key)
    if len(keys) != rows:
        raise DataError(f"{name} has {len(keys)} pairs, expected {rows}: prepare the data set again.")
    if total.hexdigest() != sha256:
        raise DataError(
            f"the rows of {name} are not those that were written (another SHA-256): prepare it again."
        )
