"""The items of a published benchmark: what is edited, and what an output is held against."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mgie.data.files import MALFORMED, reason
from mgie.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One item of one view."""

    key: str
    """Unique in its view."""
    instruction: str
    source: "Path | Cell | None"
    """What doing nothing would give: the picture that the view's first edit begins with. None: a new picture
    is painted."""
    output: str
    """Official name of the output's file, in the folder of a system's pictures."""
    target: "Path | Cell | None" = None
    caption: str = ""
    """What the target shows, in words."""
    source_caption: str = ""
    kind: str = ""
    cluster: str = ""
    """Items of one cluster are no independent samples (turns of one session)."""
    mask: Path | None = None
    """Where the edit belongs, white."""
    images: tuple[Path, ...] = ()
    """Pictures inside the instruction, in its order."""
    thing: str = ""
    """What a detector calls the thing that the instruction shows."""
    entity: Path | None = None
    """That thing, on black."""
    references: tuple[Path, ...] = ()
    """Photos of the subject that should be seen."""
    way: "tuple[Turn, ...]" = ()
    """Earlier turns, from whose outputs this one is made: not scored here, but they must be there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """An edit on the way to the one that is scored."""

    key: str
    instruction: str
    output: str


Views = dict[str, list[Entry]]
"""View -> its items, in the order in which they are read best."""
Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture in a Parquet file; neighbours are read together."""

    file: Path
    group: int
    row: int
    column: str

    def read_bytes(self) -> bytes:
        """The picture's file; empty where there is none. Raises DataError."""
        try:
            return (_group(self.file, self.group, self.column)[self.row] or {}).get("bytes") or b""
        except MALFORMED as error:
            raise DataError(f"{self} cannot be read ({reason(error)}): download it again.") from error

    def __str__(self) -> str:
        return f"{self.file.name}, {self.column} of row {self.row} of group {self.group}"


@lru_cache(maxsize=2)
def _group(file: Path, group: int, column: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(file).read_row_group(group, columns=[column])[column].to_pylist()
