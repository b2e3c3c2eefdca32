"""The user's own pairs: a folder with a table, a file of JSON lines, or a data set that `mgie prepare` wrote.

    DIR/before/*, DIR/after/*, DIR/instructions.csv
                  columns file, instruction[, expressive, mask, task, weight, split]; UTF-8
    FILE.jsonl, or DIR/pairs.jsonl
                  {"source", "target", "instruction"[, "expressive", "mask", ...]}

Paths in a file of JSON lines are relative to it.
"""

import csv
import difflib
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgie.data.shards import check_files
from mgie.data.sources import tables
from mgie.data.sources.base import Options, Splits, hold_out, named, read_file, split_name
from mgie.data.stored_pairs import FACTS, StoredPairs, from_row, read_facts, stored_splits
from mgie.data.validation import Rejected, is_name
from mgie.errors import DataError
from mgie.types import EditPair

PATHS = ("source", "target", "mask")
TEXTS = ("key", "instruction", "expressive", "task", "kind", "session", "split")
NUMBERS = {"turn": int, "weight": float}
KEPT = ("regions", "subjects")
"""Kept as JSON in the pair's meta."""
FIELDS = (*PATHS, *TEXTS, *NUMBERS, *KEPT)
FILE_COLUMNS = ("file", "name", "image", "picture", "filename")
INSTRUCTION_COLUMNS = ("instruction", "prompt", "edit", "edit_prompt", "instructions", "text")
"""How these two columns of a table may be called."""
TABLES = ("instructions.csv", "instructions.tsv")
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

Line = dict[str, Any] | Rejected


def read(where: str, options: Options) -> Splits:
    """Pairs of `where`. A `split` in a row decides; otherwise the last twentieth of the rows is held out."""
    if (Path(where) / FACTS).is_file():
        return _read_stored(Path(where), options.count)
    lines = list(_lines(where))
    groups: dict[str, list[Line]] = {}
    for line in lines:
        split = line.get("split", "train") if isinstance(line, dict) else "train"
        groups.setdefault(split, []).append(line)
    if set(groups) - {"train"}:
        return {split: map(_pair, part) for split, part in groups.items()}
    train, test = hold_out(lines, options)
    return named(map(_pair, train), map(_pair, test), held=len(test))


def pictures(where: str) -> Iterator[Path]:
    """The pictures that the rows of `where` name, wherever they lie. None of them is opened."""
    if not (Path(where) / FACTS).is_file():
        for line in _lines(where):
            if isinstance(line, dict):
                yield from (line[name] for name in PATHS if isinstance(line.get(name), Path))


def _lines(where: str) -> Iterator[Line]:
    path = Path(where)
    places = (path, *(path / name for name in ("pairs.jsonl", *TABLES)))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(
            f"{where} is neither a .jsonl file nor a folder with instructions.csv or pairs.jsonl: see "
            "docs/data.md."
        )
    try:
        data = found.read_bytes()
    except OSError as error:
        raise DataError(f"{found} cannot be read ({error.strerror}): expected a table of pairs.") from error
    yield from (
        _table_lines(path, found, data)
        if found.name in TABLES and path != found
        else _json_lines(found, data)
    )


def _read_stored(folder: Path, count: int | None) -> Splits:
    check_files(folder, read_facts(folder) or {})
    if tables.parquet_files(folder):
        streams = tables.open_tables(str(folder))
        splits: Splits = {
            split: map(from_row, tables.read_rows(stream, str(folder))) for split, stream in streams.items()
        }
    else:
        splits = {split: StoredPairs(folder, split) for split in stored_splits(folder)}
    return splits if count is None else splits | {"train": itertools.islice(splits["train"], count)}


def _json_lines(path: Path, data: bytes) -> Iterator[Line]:
    text = data.decode("utf-8-sig", errors="surrogateescape")
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


def _table_lines(folder: Path, path: Path, data: bytes) -> Iterator[Line]:
    rows = _cells(path, data)
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    if any(Path(cell).suffix in PICTURES for cell in names):
        names = ["file", "instruction", "expressive"][: len(names)]
    else:
        rows = rows[1:]
    column = next((name for name in FILE_COLUMNS if name in names), None)
    words = next((name for name in INSTRUCTION_COLUMNS if name in names), None)
    if words is None or (column is None and "source" not in names):
        raise DataError(
            f"{path} has the columns {', '.join(names) or 'none'}: expected at least file and instruction in "
            "its first row."
        )
    names[names.index(words)] = "instruction"
    used: set[str] = set()
    keys: dict[str, str] = {}
    for number, cells in enumerate(rows, 2):
        place = f"row {number} of {path.name}"
        if len(cells) != len(names):
            yield Rejected(
                key=place, reason="bad row", detail=f"{place} has {len(cells)} cells, expected {len(names)}."
            )
            continue
        row = {name: cell.strip() for name, cell in zip(names, cells) if cell.strip()}
        if '""' in row.get("instruction", ""):
            detail = f"{place} has doubled quotes in its instruction, as where one that opens is missing."
            yield Rejected(key=place, reason="bad row", detail=detail)
            continue
        file = row.pop(column, "") if column else ""
        if file and not is_name(file):
            detail = f"{place} has the file {file!r}: expected the name of a picture in before/."
            yield Rejected(key=place, reason="bad row", detail=detail)
            continue
        if file:
            used.add(file)
            key = _key(file, row.get("instruction", ""), keys)
            row = {"source": f"before/{file}", "target": str(_partner(folder, file)), "key": key} | row
        yield _line(row, place, folder, key=f"{path.stem}-{number:06d}")
    if column:
        for extra in sorted(
            {p.name for p in (folder / "before").glob("*") if p.suffix.lower() in PICTURES} - used
        ):
            detail = f"before/{extra} is not named in {path.name}: expected a row with its instruction."
            yield Rejected(key=extra, reason="no instruction", detail=detail)


def _cells(path: Path, data: bytes) -> list[list[str]]:
    """The rows of a table that are not empty. Raises DataError where it cannot be read as it was meant."""
    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("a zero byte, as UTF-16 has them")
    except ValueError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        raise DataError(
            f"{path} is no UTF-8 (line {line}), so its letters cannot be known: save it as UTF-8, which "
            'Excel calls "CSV UTF-8".'
        ) from error
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read near line {reader.line_num} ({error}): look for a quotation mark that is "
            "not closed, or a very long text."
        ) from error


def _key(file: str, instruction: str, keys: dict[str, str]) -> str:
    """The name of a row by its picture's: a second instruction of the same picture has -2 behind it, and the
    same row again the same name. `keys`: key -> what it stands for, of the rows before."""
    row, stem = f"{file}\n{instruction}", Path(file).stem
    numbered = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
    key = next(key for key in numbered if keys.get(key, row) == row)
    keys[key] = row
    return key


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
                f"{place}: {name} is the address {row[name]}, and nothing is fetched; download it first."
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
        if not isinstance(row.get(name, ""), str | None):
            return Rejected(key=place, reason="bad row", detail=f"{place} has no text under {name}.")
    try:
        numbers = {name: kind(row[name]) for name, kind in NUMBERS.items() if row.get(name) is not None}
    except (ValueError, TypeError, OverflowError):
        return Rejected(key=place, reason="bad row", detail=f"{place} has no number under weight or turn.")
    if row.get("split"):
        try:
            row = row | {"split": split_name(row["split"], place)}
        except DataError as error:
            return Rejected(key=place, reason="bad split", detail=str(error))
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
