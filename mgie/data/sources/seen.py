"""Has a source changed? Names, sizes and times of the files that it is read from.

Nothing is opened but the table that names the files, so a change is noticed in little time.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_patch.folders import DROPPINGS
from mgie.data.sources import own
from mgie.data.stored_pairs import FACTS, data_identity


def fingerprint(what: str) -> dict[str, Any]:
    """`files` and `sha256` of what NAME:WHERE is read from: a source, or what --express names. No file where
    it is a hub id, the toy world, or not there any longer; of a data set that `mgie prepare` wrote, its
    identity."""
    name, _, where = what.partition(":")
    if name == "pairs" and (Path(where) / FACTS).is_file():
        return {"files": 1, "sha256": data_identity(where)}
    rows: set[str] = set()
    if name != "toy" and where and Path(where).exists():
        rows.update(_rows(Path(where)))
        if name == "pairs":
            rows.update(map(_row, own.pictures(where)))
    digest = hashlib.sha256("".join(sorted(rows)).encode("utf-8", "surrogatepass"))
    return {"files": len(rows), "sha256": digest.hexdigest()}


def _rows(place: Path) -> Iterator[str]:
    if place.is_file():
        yield _row(place)
    for folder, _, names in os.walk(place):
        yield from (_row(Path(folder, name)) for name in names if name not in DROPPINGS)


def _row(path: Path) -> str:
    try:
        about = path.stat()
        return f"{os.path.abspath(path)}\0{about.st_size}\0{about.st_mtime_ns}\n"
    except (OSError, ValueError):  # the reader will say what is wrong with it
        return f"{path}\0\n"
