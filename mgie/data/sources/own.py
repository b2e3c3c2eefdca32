"""The user's own pairs: a folder with a table, JSON lines, or a prepared data set.

    DIR/before/*, DIR/after/*, DIR/instructions.csv
                  columns file, instruction[, expressive, mask, task, weight, split]; UTF-8
    DIR/masks/*, DIR/layouts/*.json
                  of a row's file, where they are: what may change, and what is where (data/regions.py)
    FILE.jsonl, or DIR/pairs.jsonl
                  {"source", "target", "instruction"[, "expressive", "mask", "regions", ...]}

Paths in a file of JSON lines are relative to it; its regions may be the name of a file of regions.
"""

import csv
import difflib
import glob
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mgie.data.files import is_name, reason
from mgie.data.regions import region_fields, region_rows
from mgie.data.shards import check_set
from mgie.data.sources.base import Options, Splits, hold_out, read_file, split_name
from mgie.data.sources.tables import read_set
from mgie.data.stored_pairs import FACTS
from mgie.data.validation import Rejected, each
from mgie.errors import DataError
from mgie.instructions import parse, task_of
from mgie.types import EditPair, Region

PATHS = ("source", "target", "mask")
TEXTS = ("key", "instruction", "expressive", "task", "kind", "session", "split")
NUMBERS = {"turn": int, "weight": float}
LISTS = ("regions", "pictures", "subjects")
FIELDS = (*PATHS, *TEXTS, *NUMBERS, *LISTS)
FILE_COLUMNS = ("file", "name", "image", "picture", "filename")
INSTRUCTION_COLUMNS = ("instruction", "prompt", "edit", "edit_prompt", "instructions", "text")
"""How these two columns of a table may be called."""
TABLES = ("instructions.csv", "instructions.tsv")
REGION = '{"phrase": TEXT, "box": [x0, y0, x1, y1] or "mask": FILE}'
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

Line = dict[str, Any] | Rejected
"""A row as the fields of EditPair and its `split`, with paths in place of pictures."""


def read(where: str, options: Options) -> Splits:
    """Pairs of `where`. A `split` in a row decides; otherwise the last twentieth of the rows is held out."""
    if (Path(where) / FACTS).is_file():
        check_set(where)
        splits: Splits = {**read_set(where)}
        if options.count is not None and "train" in splits:
            splits["train"] = itertools.islice(splits["train"], options.count)
        return splits
    lines, groups = list(_lines(where)), {}
    for line in lines:
        groups.setdefault(line.get("split", "train") if isinstance(line, dict) else "train", []).append(line)
    parts = groups if set(groups) - {"train"} else hold_out(lines, options)
    return {split: each(_pair, part) for split, part in parts.items()}


def pictures(where: str) -> list[Path]:
    """The pictures that the rows of `where` name, wherever they lie. None of them is opened."""
    found: list[Path] = []
    for line in _lines(where) if not (Path(where) / FACTS).is_file() else ():
        if isinstance(line, dict):
            _with_pictures(line, lambda _, path: found.append(path))
    return found


def _lines(where: str) -> Iterator[Line]:
    places = [Path(where), *(Path(where, name) for name in ("pairs.jsonl", *TABLES))]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        expected = "a .jsonl file nor a folder with instructions.csv or pairs.jsonl"
        raise DataError(f"{where} is neither {expected}: see docs/data.md.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): expected a table of pairs.") from error
    kind, rows = ("row", _table(path, data)) if path in places[2:] else ("line", _json_lines(data))
    return each(lambda row: _line(row[1], f"{kind} {row[0]} of {path.name}", path, row[0]), rows)


def _json_lines(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and rows of JSON lines, or what is wrong with a row."""
    for number, text in enumerate(data.decode("utf-8-sig", errors="surrogateescape").split("\n"), 1):
        if text.strip():
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else "no JSON object"


def _table(path: Path, data: bytes) -> Iterator[tuple[int, Any] | Rejected]:
    """Numbers and rows of a table, or what is wrong with a row. Raises DataError where it cannot be read."""
    rows, folder = _cells(path, data), path.parent
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    if any(Path(cell).suffix in PICTURES for cell in names):
        rows, names = [[], *rows], ["file", "instruction", "expressive"][: len(names)]
    column = next((name for name in FILE_COLUMNS if name in names), None)
    words = next((name for name in INSTRUCTION_COLUMNS if name in names), None)
    if words is None or (column is None and "source" not in names):
        has = f"has the columns {', '.join(names) or 'none'}"
        raise DataError(f"{path} {has}: expected at least file and instruction in its first row.")
    names[names.index(words)] = "instruction"
    used: set[str] = set()
    keys: dict[str, str] = {}
    for number, cells in enumerate(rows[1:], 2):
        row = {name: cell.strip() for name, cell in zip(names, cells) if cell.strip()}
        file = row.pop(column, "") if column else ""
        if len(cells) != len(names):
            row = f"{len(cells)} cells, expected {len(names)}"
        elif '""' in row.get("instruction", ""):
            row = "doubled quotes in its instruction, as where one that opens is missing"
        elif file and not is_name(file):
            row = f"the file {file!r}: expected the name of a picture in before/"
        elif file:
            used.add(file)
            # A second instruction of the same picture has -2 behind its key, and the same row the same key.
            stem, this = Path(file).stem, f"{file}\n{row.get('instruction')}"
            numbered = (f"{stem}-{again}" if again > 1 else stem for again in itertools.count(1))
            key = next(key for key in numbered if keys.setdefault(key, this) == this)
            same = folder / "after" / file
            others = () if same.exists() else sorted(same.parent.glob(glob.escape(stem) + ".*"))
            target = next(iter(others), same).relative_to(folder).as_posix()
            row = {"source": f"before/{file}", "target": target, "key": key, **_beside(folder, stem)} | row
        yield number, row
    there = {found.name for found in (folder / "before").glob("*") if found.suffix.lower() in PICTURES}
    for extra in sorted(there - used) if column else ():
        detail = f"before/{extra} is not named in {path.name}: expected a row with its instruction."
        yield Rejected(extra, "no instruction", detail)


def _beside(folder: Path, stem: str) -> dict[str, str]:
    """The mask and the file of regions of a picture, where they are."""
    masks = sorted(each for each in (folder / "masks").glob(glob.escape(stem) + ".*"))
    layout = Path("layouts", f"{stem}.json")
    found = {"mask": f"masks/{masks[0].name}"} if masks else {}
    return found | ({"regions": layout.as_posix()} if (folder / layout).is_file() else {})


def _cells(path: Path, data: bytes) -> list[list[str]]:
    """The rows of a table that are not empty."""
    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("a zero byte, as UTF-16 has them")
    except ValueError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        wish = 'so its letters cannot be known: save it as UTF-8, which Excel calls "CSV UTF-8"'
        raise DataError(f"{path} is no UTF-8 (line {line}), {wish}.") from error
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        wish = "look for a quotation mark that is not closed, or a very long text"
        raise DataError(f"{path} cannot be read near line {reader.line_num} ({error}): {wish}.") from error


def _line(row: Any, place: str, path: Path, number: int) -> dict[str, Any]:
    """One row, its fields checked. Raises Rejected, and DataError for what is wrong with the whole file."""

    def bad(what: str) -> Rejected:
        return Rejected(place, "bad row", f"{place} has {what}.")

    def absolute(name: str, text: str) -> Path:
        if text.lower().startswith(("http://", "https://")):
            what = f"{name} is the address {text}, and nothing is fetched"
            raise DataError(f"{place}: {what}; download it first.")
        return path.parent / text

    if not isinstance(row, dict):
        raise bad(row)
    row = {name: value for name, value in row.items() if value not in (None, "")}
    for name in row:
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8)
        if name not in FIELDS and near:
            detail = f"{place} has the field {name!r}: did you mean {near[0]!r}?"
            raise Rejected(place, "unknown field", detail)
    for name in ("target", "instruction"):
        if name not in row:
            raise bad(f"no {name}: expected a text")
    texts = [(name, row[name]) for name in (*PATHS, *TEXTS) if name in row]
    beside = None
    if isinstance(row.get("regions"), str):
        beside = absolute("regions", row["regions"])
        try:
            row["regions"] = region_rows(beside)
        except DataError as error:
            raise Rejected(place, "bad row", f"{place}: {error}") from error
    for name in LISTS:
        if not isinstance(row.setdefault(name, []), list):
            raise bad(f"no list under {name}")
        texts += [(name, each) for each in row[name] if name != "regions"]
    for name, text in texts:
        if not isinstance(text, str):
            raise bad(f"no text under {name}")
    try:
        row |= {name: kind(row[name]) for name, kind in NUMBERS.items() if name in row}
        regions = [region_fields(**about) for about in row["regions"]]
        row["regions"] = [_masked(each, beside, path) for each in regions]
    except (ValueError, TypeError, OverflowError) as error:
        raise bad(f"no number under weight or turn, or no region like {REGION} ({error})") from error
    try:
        row |= {"split": split_name(row["split"], place)} if "split" in row else {}
    except DataError as error:
        raise Rejected(place, "bad split", str(error)) from error
    meta = {name: row.pop(name) for name in list(row) if name not in FIELDS}
    row["meta"] = {n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in meta.items()}
    return _with_pictures({"key": f"{path.stem}-{number:06d}"} | row, absolute)


def _masked(region: dict[str, Any], beside: Path | None, table: Path) -> dict[str, Any]:
    """A region with its mask as the table would name it; of a file of regions, it lies beside that."""
    if beside is None or region["mask"] is None:
        return region
    return region | {"mask": os.path.relpath(beside.parent / region["mask"], table.parent)}


def _with_pictures(line: dict[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    """A row with each of its pictures changed: `change(name, picture)`."""
    regions = [each | {"mask": each["mask"] and change("mask", each["mask"])} for each in line["regions"]]
    found = {"pictures": [change("pictures", each) for each in line["pictures"]], "regions": regions}
    return line | found | {name: change(name, line[name]) for name in PATHS if name in line}


def _pair(line: dict[str, Any]) -> EditPair:
    values: dict[str, Any] = _with_pictures(line, lambda name, path: read_file(path, line["key"], name))
    values["regions"] = [Region(**region) for region in values["regions"]]
    values.pop("split", None)
    values.setdefault("task", task_of(parse(values["instruction"]), photo="source" in values))
    values |= {name: tuple(values[name]) for name in LISTS}
    return EditPair(**values)
