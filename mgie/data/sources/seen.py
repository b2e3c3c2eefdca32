"""Has a source changed? Names, sizes and times of the files that it is read from.

Nothing is opened but the table that names the files, so a change is noticed in little time.
"""

import hashlib
import os
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
    files: list[Path] = []
    if name != "toy" and where and Path(where).exists():
        files += [Path(where)] if Path(where).is_file() else []
        files += [Path(folder, file) for folder, _, found in os.walk(where) for file in found]
        files += own.pictures(where) if name == "pairs" else ()
    rows = sorted({_row(path) for path in files if path.name not in DROPPINGS})
    digest = hashlib.sha256("".join(rows).encode("utf-8", "surrogatepass"))
    return {"files": len(rows), "sha256": digest.hexdigest()}


def _row(path: Path) -> str:
    try:
        about = path.stat()
        return f"{os.path.abspath(path)}\0{about.st_size}\0{about.st_mtime_ns}\n"
    except (OSError, ValueError):  # the reader will say what is wrong with it
        return f"{path}\0\n"
