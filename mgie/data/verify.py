"""`mgie prepare --check`: is a data set still what its facts say? Files, rows, pictures, features."""

import hashlib
from pathlib import Path
from typing import Any

from mgie.data.shards import check_set
from mgie.data.sources.tables import read_set
from mgie.data.stored_features import Watch, check_features
from mgie.data.stored_pairs import row_hash, to_row
from mgie.data.validation import Rejected, check
from mgie.errors import DataError


def verify(folder: str | Path, watch: Watch | None = None) -> dict[str, Any]:
    """The facts of a data set that is whole. Raises DataError that names the first fault."""
    facts = check_set(folder)
    for split, pairs in read_set(folder).items():
        place, about = Path(folder) / split, facts["splits"][split]
        total, keys = hashlib.sha256(), set()
        for number, pair in enumerate(watch(pairs, split) if watch else pairs):
            try:
                size = check(pair)
            except Rejected as error:
                raise DataError(f"pair {number} of {place}: {error}") from error
            total.update(row_hash(to_row(pair, size)))
            keys.add(pair.key)
        if len(keys) != about["rows"]:
            expected = f"expected {about['rows']}: prepare the data set again"
            raise DataError(f"{place} has {len(keys)} pairs, {expected}.")
        if total.hexdigest() != about["sha256"]:
            wrong = "not those that were written (another SHA-256)"
            raise DataError(f"the rows of {place} are {wrong}: prepare it again.")
    check_features(folder)
    return facts
