"""EditPair <-> a data set on disk: Arrow files that are memory-mapped as they lie.

    DIR/train, DIR/test    Arrow streams; `datasets.load_dataset(DIR)` opens them too
    DIR/README.md          the data set's card
    DIR/facts.json         counts, hashes, and the arguments that made it

The bytes of a picture's file are stored as they came.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, Image, List, Value
from torch.utils.data import Dataset

from mgie.data.files import is_name, read_json, reason
from mgie.errors import DataError
from mgie.types import PICTURE, SOURCE, EditPair, Region, Size

TEXT, NUMBER, IMAGE = Value("string"), Value("int32"), Image()
FEATURES = Features({
    "key": TEXT, "source": IMAGE, "target": IMAGE, "mask": IMAGE, "instruction": TEXT, "expressive": TEXT,
    "task": TEXT, "kind": TEXT, "session": TEXT, "turn": NUMBER, "weight": Value("float64"), "meta": TEXT,
    "width": NUMBER, "height": NUMBER, "regions": TEXT, "stencils": List(IMAGE), "pictures": List(IMAGE),
    "subjects": TEXT,
})  # fmt: skip
"""Columns of a stored data set. `width` and `height` are the target's, upright; `meta`, `regions` and
`subjects` are JSON; `stencils` are the masks of those regions that have one, in their order."""
NEWER = ("regions", "stencils", "pictures", "subjects")
"""Columns that a data set of format 1 does not have: its pairs have none of these."""
FORMATS = (1, 2)
"""Numbers in facts.json that are understood; what is written has the last."""
PICTURES = ("source", "target", "mask")
SEVERAL = ("stencils", "pictures")
JSON = ("meta", "regions", "subjects")
SIZE = ("width", "height")
AS_THEY_ARE = tuple(name for name in FEATURES if name not in (*PICTURES, *SEVERAL, *JSON, *SIZE))
FACTS = "facts.json"
KIND = "data set"
"""Kind of the folder."""
REJECTED = "rejected.jsonl"


@dataclass
class Shard:
    """What is known of a file: its path within the data set, its rows, hashes of all and of some bytes."""

    file: str
    rows: int
    bytes: int
    sha256: str
    sample: str = ""


@dataclass
class SplitFacts:
    """What is known of one split: its files, and a hash over the rows, whatever files they lie in."""

    rows: int = 0
    sha256: str = ""
    shards: list[Shard] = field(default_factory=list)


class StoredPairs(Dataset):
    """One split of a data set on disk: `len`, `[index] -> EditPair`. Nothing is read before asked for."""

    def __init__(self, folder: str | Path, split: str, *, pictures: bool = True):
        """Without `pictures` those of a pair are not read: where there is one, it is empty."""
        self.folder, self.split, self.pictures = Path(folder), split, pictures
        facts = read_facts(folder)
        if split not in stored_splits(folder):
            found = ", ".join(stored_splits(folder)) or "none"
            raise DataError(f"{folder} has no split {split!r}: expected one of {found}.")
        try:
            maps = [pa.memory_map(f"{folder}/{shard.file}") for shard in split_facts(facts)[split].shards]
            self._table = pa.concat_tables([pa.ipc.open_stream(each).read_all() for each in maps])
        except (KeyError, OSError, pa.ArrowException) as error:
            wrong = f"cannot be opened ({reason(error)}): it is damaged; prepare the data set again"
            raise DataError(f"{self.folder / split} {wrong}.") from error
        columns = [name for name in FEATURES if facts["format"] > 1 or name not in NEWER]
        if self._table.schema != pa.schema([FEATURES.arrow_schema.field(name) for name in columns]):
            raise DataError(f"{self.folder / split} has other columns: prepare the data set again.")
        # A table would look for a row's batch anew in every column.
        batches, unread = self._table.to_batches(), SIZE if pictures else (*SIZE, *SEVERAL)
        names = [name for name in columns if name not in unread]
        self._columns = [{name: batch[name] for name in names} for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, index: int) -> EditPair:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)} in {self.folder / self.split}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        place = int(index - self._starts[number])
        cells = {name: column[place] for name, column in self._columns[number].items()}
        if self.pictures:
            return from_row({name: cell.as_py() for name, cell in cells.items()})
        unread = {name: {"bytes": b""} if cells.pop(name).is_valid else None for name in PICTURES}
        return from_row(unread | {name: cell.as_py() for name, cell in cells.items()})

    def __iter__(self) -> Iterator[EditPair]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(StoredPairs, pictures=self.pictures), (self.folder, self.split)

    @property
    def lengths(self) -> np.ndarray:
        """Characters of text per pair: what length buckets go by. No picture is read."""
        counts = (pc.utf8_length(self._table[name]) for name in ("instruction", "expressive"))
        return pc.add(*counts).to_numpy()

    @property
    def sides(self) -> np.ndarray:
        """Width and height of each pair's target, n x 2. No picture is read."""
        return np.stack([self._table.column(name).to_numpy() for name in ("width", "height")], axis=1)

    @property
    def weights(self) -> np.ndarray:
        """How much each pair counts."""
        return self._table.column("weight").to_numpy()

    @property
    def sessions(self) -> dict[str, list[int]]:
        """The multi-turn view: name of a session -> the numbers of its pairs, in the order of their turns."""
        names, turns = (self._table.column(name).to_pylist() for name in ("session", "turn"))
        found: dict[str, list[int]] = {}
        for index in sorted(range(len(self)), key=turns.__getitem__):
            if names[index]:
                found.setdefault(names[index], []).append(index)
        return found

    @property
    def with_pictures(self) -> list[str]:
        """The names of those pairs whose instruction contains pictures, be it the source."""
        asked = pc.match_substring_regex(self._table.column("instruction"), f"{PICTURE}|{SOURCE}")
        return self._table.column("key").filter(asked).to_pylist()

    @property
    def with_sources(self) -> int:
        """How many pairs have a picture before the edit."""
        return len(self) - self._table.column("source").null_count

    @property
    def with_regions(self) -> int:
        """How many pairs say what belongs where."""
        if "regions" not in self._table.column_names:
            return 0
        return pc.sum(pc.not_equal(self._table.column("regions"), "")).as_py() or 0

    @property
    def keys(self) -> list[str]:
        """The names of all pairs, in order."""
        return self._table.column("key").to_pylist()


def stored_splits(folder: str | Path) -> list[str]:
    """Names of the splits of a data set on disk, "train" first."""
    found = {path.parent.name for path in Path(folder).glob("*/*.arrow")}
    return sorted(found, key=lambda name: (name != "train", name))


def read_facts(folder: str | Path) -> dict[str, Any]:
    """What facts.json of a data set says. Raises DataError where there is none, or of another program."""
    path = Path(folder) / FACTS
    if not path.is_file():
        expected = f"expected a folder that `mgie prepare ... --out {folder}` wrote"
        raise DataError(f"{folder} is no data set (it has no {FACTS}): {expected}.")

    def understand(facts: dict[str, Any]) -> dict[str, Any]:
        splits = split_facts(facts)
        if not all(is_name(shard.file) for about in splits.values() for shard in about.shards):
            raise ValueError("it names a file outside")
        return facts | {"format": facts["format"]}

    facts = read_json(path, understand, "what `mgie prepare` writes; prepare the data set again")
    if facts["format"] not in FORMATS:
        known = " or ".join(map(str, FORMATS))
        wish = "take the mgie that wrote it, or prepare the data set again"
        raise DataError(f"{path} tells of format {facts['format']!r}, expected {known}: {wish}.")
    return facts


def split_facts(facts: dict[str, Any]) -> dict[str, SplitFacts]:
    """What facts.json says of each split."""
    return {
        split: SplitFacts(about["rows"], about["sha256"], [Shard(**shard) for shard in about["shards"]])
        for split, about in facts["splits"].items()
    }


def data_identity(folder: str | Path) -> str:
    """SHA-256 over the names and rows of all splits of a data set, as its facts tell them: what a run was
    trained on. The same whatever files the rows lie in; nothing but facts.json is read. Raises DataError."""
    return hashlib.sha256(json.dumps(sorted(row_hashes(folder).items())).encode()).hexdigest()


def row_hashes(folder: str | Path) -> dict[str, str]:
    """Split -> hash of its rows, as facts.json has it. Raises DataError."""
    return {split: about.sha256 for split, about in split_facts(read_facts(folder)).items()}


def to_row(pair: EditPair, size: Size) -> dict[str, Any]:
    """A pair as the columns of FEATURES; `size` is the width and height of its target."""
    row = {name: getattr(pair, name, None) for name in FEATURES} | dict(zip(SIZE, size))
    row["regions"] = [asdict(region) | {"mask": region.mask is not None} for region in pair.regions]
    row["stencils"] = [region.mask for region in pair.regions if region.mask is not None]
    for name in JSON:
        row[name] = json.dumps(row[name], ensure_ascii=False, sort_keys=True) if row[name] else ""
    return FEATURES.encode_example(row)


def from_row(row: dict[str, Any]) -> EditPair:
    """The pair that `to_row` made into columns. The newer ones may be missing."""
    values = {name: row[name] for name in AS_THEY_ARE}
    values |= {name: row[name] and row[name]["bytes"] for name in PICTURES}
    told = {name: json.loads(text) if (text := row.get(name)) else () for name in JSON}
    stencils, pictures = ([cell["bytes"] for cell in row.get(name) or ()] for name in SEVERAL)
    masks = iter(stencils)
    for about in told["regions"]:
        about["box"], about["scales"] = about["box"] and tuple(about["box"]), tuple(about["scales"])
        about["mask"] = next(masks, b"") if about["mask"] else None
    regions = tuple(Region(**about) for about in told["regions"])
    more = {"pictures": tuple(pictures), "subjects": tuple(told["subjects"]), "meta": dict(told["meta"])}
    return EditPair(**values, regions=regions, **more)


def row_hash(row: dict[str, Any]) -> bytes:
    """SHA-256 of a row, the same for every machine and file format; newer columns count where not empty."""
    digest = hashlib.sha256()
    for name in (name for name in FEATURES if row[name] or name not in NEWER):
        value = row[name]
        if name in SEVERAL:
            parts = [cell["bytes"] for cell in value]
        elif name in PICTURES:
            parts = [b"\0" if value is None else b"\1" + value["bytes"]]
        else:
            parts = [repr(value).encode()]
        for part in [name.encode(), *parts] if name in NEWER else parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.digest()
