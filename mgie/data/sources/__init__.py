"""Where pairs come from: one reader per layout. Each is an iterator of EditPair, with keys."""

import hashlib
import os
from pathlib import Path
from typing import Any

from llava_patch.folders import DROPPINGS
from mgie.data.sources import ipr2pr, legacy, magicbrush, mige, own, toy_world
from mgie.data.sources.base import Options, Splits
from mgie.data.stored_pairs import FACTS, data_identity
from mgie.errors import ConfigError

READERS = {
    "toy": toy_world.read,
    "ipr2pr:DIR": ipr2pr.read,
    "magicbrush:DIR": magicbrush.read,
    "mige:FILE.json": mige.read,
    "pairs:DIR_OR_JSONL": own.read,
    "legacy:DIR": legacy.read,
}

PICTURES = {"mige": mige.pictures, "pairs": own.pictures}
"""Of tables that name pictures anywhere: which."""


def open_source(source: str, options: Options) -> Splits:
    """Split -> its rows, read one by one. Raises ConfigError for no source, DataError for one not there."""
    name, _, where = source.partition(":")
    found = next((example for example in READERS if example.partition(":")[0] == name), None)
    if found is None or not (where or source == found):
        expected = f"one of {', '.join(READERS)}" if found is None else found
        raise ConfigError(f"{source!r} is no source: expected {expected}.")
    return READERS[found](where, options)


def fingerprint(what: str) -> dict[str, Any]:
    """What NAME:WHERE, a source or what --express names, looks like from outside: how many files, and a hash
    of their names, sizes and times. Nothing is opened but a table that names others. No file where it is a
    hub id, the toy world, or gone; of a data set that `mgie prepare` wrote, its identity."""
    name, _, where = what.partition(":")
    if name == "pairs" and (Path(where) / FACTS).is_file():
        return {"files": 1, "sha256": data_identity(where)}
    files: list[Path] = []
    if name != "toy" and where and Path(where).exists():
        files += [Path(where)] if Path(where).is_file() else []
        files += [Path(folder, file) for folder, _, found in os.walk(where) for file in found]
        files += PICTURES[name](where) if name in PICTURES else ()
    rows = sorted({_row(path) for path in files if path.name not in DROPPINGS})
    digest = hashlib.sha256("".join(rows).encode("utf-8", "surrogatepass"))
    return {"files": len(rows), "sha256": digest.hexdigest()}


def _row(path: Path) -> str:
    try:
        about = path.stat()
        return f"{os.path.abspath(path)}\0{about.st_size}\0{about.st_mtime_ns}\n"
    except (OSError, ValueError):  # the reader will say what is wrong with it
        return f"{path}\0\n"
