"""Records of MIGE's authors (Tian et al. 2025): new pictures, edits, edits by a picture.

FILE.json   [{"image", "multi_prompt", "entity_path": [...], "source_path": [...]}, ...]

Paths are relative to the file. A record's task is told by what is in it, and never by the names of its files.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgie.data.files import read_json
from mgie.data.sources.base import Options, Splits, hold_out, read_file
from mgie.data.validation import Rejected, each
from mgie.errors import DataError
from mgie.instructions import named, parse, task_of
from mgie.types import EditPair

FIELDS = {"image": str, "multi_prompt": str, "entity_path": list, "source_path": list}
RECORDS = '[{"image", "multi_prompt", "entity_path": [...], "source_path": [...]}, ...]'


def read(where: str, options: Options) -> Splits:
    """Pairs of the file `where`, in its order."""
    path = Path(where)
    records = read_json(path, _records, RECORDS)
    parts = hold_out(list(enumerate(records, 1)), options)
    return {split: each(lambda at: _pair(*at, path), part) for split, part in parts.items()}


def pictures(where: str) -> Iterator[Path]:
    """The pictures that the records of `where` name. None of them is opened."""
    path = Path(where)
    for record in read_json(path, _records, RECORDS):
        if not _wrong(record):
            for name in (record["image"], *record["entity_path"], *record["source_path"]):
                yield path.parent / name


def _records(held: Any) -> list[Any]:
    if not isinstance(held, list):
        raise ValueError("it is no list")
    return held


def _wrong(record: Any) -> str:
    """What a record lacks; empty of a whole one."""
    if not isinstance(record, dict):
        return "is no object"
    for name, kind in FIELDS.items():
        value = record.get(name)
        strings = not isinstance(value, list) or all(isinstance(one, str) for one in value)
        if not isinstance(value, kind) or not strings:
            return f"has no {name}: expected {'a list of paths' if kind is list else 'a text'}"
    if len(record["source_path"]) > 1:
        return f"has {len(record['source_path'])} sources: expected one at most"
    return ""


def _pair(number: int, record: Any, path: Path) -> EditPair:
    """The pair of a record. Raises Rejected."""
    place = f"record {number} of {path.name}"
    if wrong := _wrong(record):
        raise Rejected(place, "bad row", f"{place} {wrong}.")
    source = next(iter(record["source_path"]), None)
    try:
        instruction, inside = named(record["multi_prompt"], record["entity_path"], source=source)
    except DataError as error:
        raise Rejected(place, "other number of pictures", f"{place} has {error}") from error
    key = str(record.get("idx", f"{path.stem}-{number:06d}"))
    task = task_of(parse(instruction), photo=source is not None)
    others = {name: value for name, value in record.items() if name not in (*FIELDS, "idx")}
    return EditPair(
        key=key, instruction=instruction, task=task,
        target=read_file(path.parent / record["image"], key, "target"),
        source=None if source is None else read_file(path.parent / source, key, "source"),
        pictures=tuple(read_file(path.parent / name, key, "picture") for name in inside),
        meta={name: value if isinstance(value, str) else json.dumps(value) for name, value in others.items()},
    )  # fmt: skip
