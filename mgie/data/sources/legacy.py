"""The original program's data files, read and written (docs/coming-from-ml-mgie.md).

DIR/ipr2pr.pkl               {"task": [[{"input", "answer", "instruction", "lineidx"}], ...]}: an index
DIR/ipr2pr.tsv               base64(picture before) TAB base64(picture after), a line per pair
DIR/ipr2pr_expressive.json   {input: {"instruction", "expressive"}}
"""

import base64
import hashlib
import io
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from mgie.data.files import MALFORMED, read_json, reason, regular
from mgie.data.shards import about_file
from mgie.data.sources.base import Options, Rows, Splits, hold_out
from mgie.data.stored_pairs import SplitFacts, row_hash, to_row
from mgie.data.validation import Rejected, Sized, each
from mgie.errors import DataError
from mgie.types import EditPair

FILES = ("ipr2pr.pkl", "ipr2pr.tsv", "ipr2pr_expressive.json")
FIELDS = {"input": str, "answer": str, "instruction": str, "lineidx": int}


def read(where: str, options: Options) -> Splits:
    """Pairs of the folder `where`, in the order of its index."""
    index, lines, path = (Path(where, name) for name in FILES)
    try:
        entries = list(load_plain(regular(index).read_bytes())["task"])
    except (*MALFORMED, pickle.UnpicklingError) as error:
        raise DataError(f"{index} is refused ({reason(error)}): expected the original's index.") from error
    if not lines.is_file():
        raise DataError(f"{where} has no {FILES[1]}: expected it beside {FILES[0]}.")
    said = read_json(path, _texts, '{key: {"instruction", "expressive"}}') if path.is_file() else {}
    return {split: _read(lines, part, said) for split, part in hold_out(entries, options).items()}


def write_legacy(pairs: Iterable[Sized], folder: Path, split: str) -> SplitFacts:
    """Write `folder`/`split` as the original's three files, with the pictures as they came; its loader opens
    whatever Pillow opens. Raises DataError for a pair without a source, or with pictures in its words."""
    (folder / split).mkdir(parents=True)
    index, said, total = [], {}, hashlib.sha256()
    with (folder / split / FILES[1]).open("wb") as lines:
        for pair, size in pairs:
            if pair.source is None or pair.pictures:
                what = "pictures in its instruction" if pair.pictures else "no source"
                raise DataError(f"{pair.key} has {what}: the original's files cannot hold it.")
            total.update(row_hash(to_row(pair, size)))
            stem, words = pair.key.removesuffix("_0"), {"instruction": pair.instruction}
            index.append([{"input": f"{stem}_0", "answer": f"{stem}_1", **words, "lineidx": lines.tell()}])
            if pair.expressive:
                said[f"{stem}_0"] = words | {"expressive": pair.expressive}
            lines.write(base64.b64encode(pair.source) + b"\t" + base64.b64encode(pair.target) + b"\n")
    (folder / split / FILES[0]).write_bytes(pickle.dumps({"task": index}, protocol=4))
    (folder / split / FILES[2]).write_text(json.dumps(said, indent=2, ensure_ascii=False), "utf-8")
    shards = [about_file(folder, f"{split}/{name}", len(index)) for name in FILES]
    return SplitFacts(rows=len(index), sha256=total.hexdigest(), shards=shards)


class PlainUnpickler(pickle.Unpickler):
    """Makes plain data only: a pickle that names a class or a function is refused before it runs."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only plain data is allowed")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse."""
        self.find_class("the outside object", str(pid))


def load_plain(data: bytes) -> Any:
    """The plain data that a pickle holds. Raises pickle.UnpicklingError for anything else."""
    try:
        return PlainUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # damaged pickles raise almost anything
        raise pickle.UnpicklingError(f"it is damaged ({type(error).__name__})") from error


def _texts(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {key: str(row["expressive"]) for key, row in rows.items()}


def _read(path: Path, entries: Iterable[Any], said: dict[str, str]) -> Rows:
    with path.open("rb") as lines:
        several = (many if isinstance(many, list) and many else [many] for many in entries)
        numbered = ((number, entry) for number, many in enumerate(several) for entry in many)
        yield from each(lambda at: _pair(lines, *at, said), numbered)


def _pair(lines: BinaryIO, number: int, entry: Any, said: dict[str, str]) -> EditPair:
    """The pair that an entry of the index points to. Raises Rejected."""
    for name, kind in FIELDS.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
            raise Rejected(f"entry {number}", "bad row", f"entry {number} of the index has no {name}.")
    key, offset = entry["input"], entry["lineidx"]
    try:
        if offset < 0 or (offset > 0 and (lines.seek(offset - 1), lines.read(1))[1] != b"\n"):
            raise ValueError("lineidx does not point to the beginning of a line")
        lines.seek(offset)
        cells = lines.readline().rstrip(b"\r\n").split(b"\t")
        if len(cells) != 2 or not all(cells):
            raise ValueError(f"its line has {len(cells)} columns, expected two pictures")
        source, target = (base64.b64decode(cell, validate=True) for cell in cells)
    except (ValueError, OSError) as error:
        raise Rejected(key, "bad row", f"{key}: {error}.") from error
    words = {"instruction": entry["instruction"], "expressive": said.get(key, "")}
    return EditPair(key=key, source=source, target=target, **words)
