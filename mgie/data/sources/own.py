"""The user's own pairs: a folder with a table, a file of JSON lines, or a data set that `mgie prepare` wrote.

    DIR/before/*, DIR/after/*, DIR/instructions.csv
                  columns file, instruction[, expressive, mask, task, weight, split]
    FILE.jsonl, or DIR/pairs.jsonl
                  {"source", "target", "instruction"[, "expressive", "mask", ...]}

Paths in a file of JSON lines are relative to it.
"""

import csv
import difflib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mgie.data.rejects import Rejected
from mgie.data.shards import check_files
from mgie.data.sources import tables
from mgie.data.sources.base import Options, Splits, hold_out, named, read_file
from mgie.data.stored_pairs import FACTS, StoredPairs, from_row, read_facts, stored_splits
from mgie.errors import DataError
from mgie.types import EditPair

PATHS = ("source", "target", "mask")
TEXTS = ("key", "instruction", "expressive", "task", "kind", "session", "split")
NUMBERS = {"turn": int, "weight": float}
KEPT = ("regions", "subjects")
"""Kept as JSON in the pair's meta."""
FIELDS = (*PATHS, *TEXTS, *NUMBERS, *KEPT)
FILE_COLUMNS = ("file", "name", "image", "picture", "filename")
TABLES = ("instructions.csv", "instructions.tsv")
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

Line = dict[str, Any] | Rejected


def read(where: str, options: Options) -> Splits:
    """Pairs of `where`. A `split` in a row decides; otherwise the last twentieth of the rows is held out."""
    path = Path(where)
    if (path / FACTS).is_file():
        return _read_stored(path, options.count)
    if path.is_file():
        lines = list(_json_lines(path))
    elif (path / "pairs.jsonl").is_file():
        lines = list(_json_lines(path / "pairs.jsonl"))
    elif found := next((path / name for name in TABLES if (path / name).is_file()), None):
        lines = list(_table_lines(path, found))
    else:
        raise DataError(
            f"{where} is neither a .jsonl file nor a folder with instructions.csv or pairs.jsonl: see "
            "docs/data.md."
        )
    named_splits = {line.get("split") or "train" for line in lines if isinstance(line, dict)}
    if named_splits - {"train"}:
        groups: dict[str, list[Line]] = {}
        for line in lines:
            groups.setdefault(
                (line.get("split") or "train") if isinstance(line, dict) else "train", []
            ).append(line)
        return {split: map(_pair, part) for split, part in groups.items()}
    train, test = hold_out(lines, options)
    return named(map(_pair, train), map(_pair, test), held=len(test))


def _read_stored(folder: Path, count: int | None) -> Splits:
    check_files(folder, read_facts(folder) or {})
    if tables.parquet_files(folder):
        streams = tables.open_tables(str(folder))
        splits: Splits = {
            split: map(from_row, tables.read_rows(stream, str(folder))) for split, stream in streams.items()
        }
    else:
        splits = {split: StoredPairs(folder, split) for split in stored_splits(folder)}
    return splits if count is None else splits | {"train": islice(splits["train"], count)}


def _json_lines(path: Path) -> Iterator[Line]:
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"line {number} of {path.name}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                yield Rejected(key=place, reason="bad row", detail=f"{place} is no JSON object.")
                continue
            yield _line(row, place, path.parent, key=f"{path.stem}-{number:06d}")


def _table_lines(folder: Path, path: Path) -> Iterator[Line]:
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    rows = [
        row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in row)
    ]
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "instruction" in names:
        rows = rows[1:]
    else:
        names = ["file", "instruction", "expressive"][: len(names)]
    column = next((name for name in FILE_COLUMNS if name in names), None)
    if column is None and "source" not in names:
        raise DataError(f"{path} has the columns {', '.join(names)}: expected at least file and instruction.")
    used: set[str] = set()
    for number, cells in enumerate(rows, 2):
        place = f"row {number} of {path.name}"
        if len(cells) != len(names):
            yield Rejected(
                key=place, reason="bad row", detail=f"{place} has {len(cells)} cells, expected {len(names)}."
            )
            continue
        row = {name: cell.strip() for name, cell in zip(names, cells) if cell.strip()}
        file = row.pop(column, "") if column else ""
        if file:
            used.add(file)
            row = {
                "source": f"before/{file}",
                "target": str(_partner(folder, file)),
                "key": Path(file).stem,
            } | row
        yield _line(row, place, folder, key=f"{path.stem}-{number:06d}")
    if column:
        for extra in sorted(
            {p.name for p in (folder / "before").glob("*") if p.suffix.lower() in PICTURES} - used
        ):
            detail = f"before/{extra} is not named in {path.name}: expected a row with its instruction."
            yield Rejected(key=extra, reason="no instruction", detail=detail)


def _partner(folder: Path, file: str) -> Path:
    """The picture after the edit: of the same name, or of the same name but for its ending."""
    same = folder / "after" / file
    others = sorted((folder / "after").glob(Path(file).stem + ".*")) if not same.exists() else []
    return (others[0] if others else same).relative_to(folder)


def _line(row: dict[str, Any], place: str, folder: Path, *, key: str) -> Line:
    """Check one row's fields; its paths become absolute. Raises DataError for what is wrong with the whole
    file."""
    for name in PATHS:
        if str(row.get(name) or "").lower().startswith(("http://", "https://")):
            raise DataError(
                f"{place}: {name} is the link {row[name]}, and links are not followed; download it first."
            )
    for name in row:
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8)
        if name not in FIELDS and near:
            detail = f"{place} has the field {name!r}: did you mean {near[0]!r}?"
            return Rejected(key=place, reason="unknown field", detail=detail)
    for name in ("target", "instruction"):
        if not isinstance(row.get(name), str):
            return Rejected(key=place, reason="bad row", detail=f"{place} has no {name}: expected a text.")
    for name in (*PATHS, *TEXTS):
        if not isinstance(row.get(name) or "", str):
            return Rejected(key=place, reason="bad row", detail=f"{place} has no text under {name}.")
    try:
        numbers = {name: kind(row[name]) for name, kind in NUMBERS.items() if row.get(name) is not None}
    except (ValueError, TypeError, OverflowError):
        return Rejected(key=place, reason="bad row", detail=f"{place} has no number under weight or turn.")
    paths = {name: folder / row[name] for name in PATHS if row.get(name)}
    return (
        {"key": key}
        | {name: value for name, value in row.items() if value not in (None, "")}
        | numbers
        | paths
    )


def _pair(line: Line) -> EditPair | Rejected:
    if isinstance(line, Rejected):
        return line
    key = line["key"]
    values: dict[str, Any] = {
        name: line[name] for name in (*TEXTS, *NUMBERS) if name in line and name != "split"
    }
    for name in PATHS:
        if name in line:
            data = read_file(line[name], key, name)
            if isinstance(data, Rejected):
                return data
            values[name] = data
    meta = {name: value for name, value in line.items() if name not in (*PATHS, *TEXTS, *NUMBERS)}
    values["meta"] = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in meta.items()
    }
    values.setdefault("instruction", "")
    return EditPair(**values)
