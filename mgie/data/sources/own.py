"""The user's own pairs: a folder with a table, JSON lines, or a prepared data set.

    DIR/before/*, DIR/after/*, DIR/instructions.csv
                  columns file, instruction[, expressive, mask, task, weight, split]; UTF-8
    FILE.jsonl, or DIR/pairs.jsonl
                  {"source", "target", "instruction"[, "expressive", "mask", "regions", ...]}

Paths in a file of JSON lines are relative to it.
"""

import csv
import difflib
import glob
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgie.data.shards import check_set
from mgie.data.sources.base import Options, Splits, each, hold_out, named, read_file, split_name
from mgie.data.sources.tables import read_set
from mgie.data.stored_pairs import FACTS
from mgie.data.validation import Rejected, is_name
from mgie.errors import DataError
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
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

Line = dict[str, Any] | Rejected
"""A row as the fields of EditPair and its `split`, with paths in place of pictures."""


def read(where: str, options: Options) -> Splits:
    """Pairs of `where`. A `split` in a row decides; otherwise the last twentieth of the rows is held out."""
    if (Path(where) / FACTS).is_file():
        check_set(where)
        splits: Splits = {**read_set(where)}
        if options.count is not None:
            splits["train"] = itertools.islice(splits["train"], options.count)
        return splits
    lines = list(_lines(where))
    groups: dict[str, list[Line]] = {}
    for line in lines:
        split = line.get("split", "train") if isinstance(line, dict) else "train"
        groups.setdefault(split, []).append(line)
    if set(groups) - {"train"}:
        return {split: each(_pair, part) for split, part in groups.items()}
    train, test = hold_out(lines, options)
    return named(each(_pair, train), each(_pair, test), held=len(test))


def pictures(where: str) -> Iterator[Path]:
    """The pictures that the rows of `where` name, wherever they lie. None of them is opened."""
    if not (Path(where) / FACTS).is_file():
        for line in _lines(where):
            if isinstance(line, dict):
                masks = [region["mask"] for region in line["regions"]]
                named = [*(line.get(name) for name in PATHS), *line["pictures"], *masks]
                yield from (path for path in named if path is not None)


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
    return _table_lines(found, data) if found.name in TABLES and path != found else _json_lines(found, data)


def _json_lines(path: Path, data: bytes) -> Iterator[Line]:
    def read_line(numbered: tuple[int, str]) -> dict[str, Any]:
        number, text = numbered
        place = f"line {number} of {path.name}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise Rejected(place, "bad row", f"{place} is no JSON object.")
        return _line(row, place, path.parent, key=f"{path.stem}-{number:06d}")

    texts = enumerate(data.decode("utf-8-sig", errors="surrogateescape").split("\n"), 1)
    return each(read_line, (numbered for numbered in texts if numbered[1].strip()))


def _table_lines(path: Path, data: bytes) -> Iterator[Line]:
    rows, folder = _cells(path, data), path.parent
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

    def read_row(numbered: tuple[int, list[str]]) -> dict[str, Any]:
        number, cells = numbered
        place = f"row {number} of {path.name}"
        row = {name: cell.strip() for name, cell in zip(names, cells) if cell.strip()}
        file = row.pop(column, "") if column else ""
        wrong = ""
        if len(cells) != len(names):
            wrong = f"{len(cells)} cells, expected {len(names)}"
        elif '""' in row.get("instruction", ""):
            wrong = "doubled quotes in its instruction, as where one that opens is missing"
        elif file and not is_name(file):
            wrong = f"the file {file!r}: expected the name of a picture in before/"
        if wrong:
            raise Rejected(place, "bad row", f"{place} has {wrong}.")
        if file:
            used.add(file)
            key = _key(file, row.get("instruction", ""), keys)
            row = {"source": f"before/{file}", "target": _partner(folder, file), "key": key} | row
        return _line(row, place, folder, key=f"{path.stem}-{number:06d}")

    yield from each(read_row, enumerate(rows, 2))
    there = {found.name for found in (folder / "before").glob("*") if found.suffix.lower() in PICTURES}
    for extra in sorted(there - used) if column else ():
        detail = f"before/{extra} is not named in {path.name}: expected a row with its instruction."
        yield Rejected(extra, "no instruction", detail)


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


def _partner(folder: Path, file: str) -> str:
    """The picture after the edit: of the same name, or of the same name but for its ending."""
    same = folder / "after" / file
    others = () if same.exists() else sorted(same.parent.glob(glob.escape(same.stem) + ".*"))
    return next(iter(others), same).relative_to(folder).as_posix()


def _line(row: dict[str, Any], place: str, folder: Path, *, key: str) -> dict[str, Any]:
    """One row, its fields checked. Raises Rejected, and DataError for what is wrong with the whole file."""

    def bad(what: str) -> Rejected:
        return Rejected(place, "bad row", f"{place} has {what}.")

    def path(name: str, text: str) -> Path:
        if text.lower().startswith(("http://", "https://")):
            raise DataError(
                f"{place}: {name} is the address {text}, and nothing is fetched; download it first."
            )
        return folder / text

    row = {name: value for name, value in row.items() if value not in (None, "")}
    for name in row:
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8)
        if name not in FIELDS and near:
            detail = f"{place} has the field {name!r}: did you mean {near[0]!r}?"
            raise Rejected(place, "unknown field", detail)
    for name in ("target", "instruction"):
        if name not in row:
            raise bad(f"no {name}: expected a text")
    for names, kind, what in (((*PATHS, *TEXTS), str, "text"), (LISTS, list, "list")):
        for name in names:
            if not isinstance(row.get(name, kind()), kind):
                raise bad(f"no {what} under {name}")
    for name in ("pictures", "subjects"):
        if not all(isinstance(text, str) for text in row.get(name, ())):
            raise bad(f"something that is no text under {name}")
    try:
        numbers = {name: kind(row[name]) for name, kind in NUMBERS.items() if name in row}
    except (ValueError, TypeError, OverflowError) as error:
        raise bad("no number under weight or turn") from error
    try:
        regions = [_region(**about) for about in row.get("regions", ())]
    except (ValueError, TypeError, OverflowError) as error:
        raise bad(
            'a region that is none: expected {"phrase", "box": [x0, y0, x1, y1] or "mask": FILE}'
        ) from error
    try:
        split = {"split": split_name(row["split"], place)} if "split" in row else {}
    except DataError as error:
        raise Rejected(place, "bad split", str(error)) from error
    meta = {name: value for name, value in row.items() if name not in FIELDS}
    return (
        {"key": key, **{name: row[name] for name in TEXTS if name in row}, **numbers, **split}
        | {name: path(name, row[name]) for name in PATHS if name in row}
        | {"pictures": [path("pictures", text) for text in row.get("pictures", ())]}
        | {"regions": [each | {"mask": each["mask"] and path("mask", each["mask"])} for each in regions]}
        | {"subjects": tuple(row.get("subjects", ()))}
        | {
            "meta": {
                n: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for n, v in meta.items()
            }
        }
    )


def _region(phrase: Any, box: Any = None, mask: Any = None, scales: Any = (1, 1, 1)) -> dict[str, Any]:
    """The fields of Region. Raises ValueError, TypeError or OverflowError for what is none."""
    box, scales = box and tuple(map(float, box)), tuple(map(float, scales))
    if (
        not isinstance(phrase, str)
        or not isinstance(mask, str | None)
        or len(scales) != 3
        or len(box or "four") != 4
    ):
        raise ValueError("no region")
    return {"phrase": phrase, "box": box, "mask": mask, "scales": scales}


def _pair(line: Line) -> EditPair:
    if isinstance(line, Rejected):
        raise line
    key = line["key"]
    values = {name: value for name, value in line.items() if name != "split"}
    values |= {name: read_file(line[name], key, name) for name in PATHS if name in line}
    values["pictures"] = tuple(read_file(path, key, "picture") for path in line["pictures"])
    values["regions"] = tuple(
        Region(**region | {"mask": region["mask"] and read_file(region["mask"], key, "mask of a region")})
        for region in line["regions"]
    )
    return EditPair(**values)
