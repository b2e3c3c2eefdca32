"""Emu Edit's test set, and the companion that holds Emu Edit's own pictures of it.

Sheynin et al., "Emu Edit", 2023.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mgie.data.files import MALFORMED, is_name, reason
from mgie.errors import DataError
from mgie.evaluation.published.entries import Cell, Entry, Views
from mgie.evaluation.published.protocol import Protocol

TEXTS = ("hash", "instruction", "task", "input_caption", "output_caption")


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One of the two data sets on the hub."""

    repo: str
    split: str
    """Where the test items are. The companion has the names of its splits swapped."""
    name: str = "hash"
    """Column that outputs are named by."""
    target: str | None = None
    """Column of what outputs are held against."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns of words."""
        return tuple(dict.fromkeys((self.name, *TEXTS)))

    @property
    def columns(self) -> tuple[str, ...]:
        """All that is read."""
        return (*self.texts, "image", *([self.target] if self.target else []))


DOWNLOADS = {
    "emu_edit": Download(repo="facebook/emu_edit_test_set", split="test"),
    "emu_edit_generations": Download(
        repo="facebook/emu_edit_test_set_generations", split="validation", name="idx", target="edited_image"
    ),
}
"""Layout -> data set."""
OTHER_SPLIT = 2022
"""Rows of the split that holds no test items."""


def read_emu_edit(protocol: Protocol, folder: Path) -> Views:
    """A download of one of the two: the Parquet files of the split with the test items. Raises DataError."""
    download = DOWNLOADS[protocol.layout]
    pattern = f"{download.split}-*.parquet"
    files = sorted({*folder.glob(pattern), *folder.glob(f"data/{pattern}")})
    if not files:
        raise DataError(f"{folder} has no {pattern}: --data expects a download of {download.repo}.")
    found: list[Entry] = []
    ((name, view),) = protocol.views.items()
    for file in files:
        for group, row, told in _rows(file, download):
            key = told[download.name]
            if not is_name(key):
                raise DataError(f"{file} has the {download.name} {key!r}: expected the name of a row.")
            entry = Entry(
                key=key, cluster=key, kind=told["task"], instruction=told["instruction"],
                source=Cell(file, group, row, "image"),
                target=Cell(file, group, row, download.target) if download.target else None,
                caption=told["output_caption"], source_caption=told["input_caption"],
                output=view.output[0].format(key=key),
            )  # fmt: skip
            found.append(entry)
    if len(found) == OTHER_SPLIT:
        raise DataError(
            f"{folder}: its split {download.split} has {OTHER_SPLIT} rows, as many as the split without the "
            f"test items: the splits' names are swapped, as those of Emu Edit's two data sets are against "
            f"each other; give a download of {download.repo}."
        )
    return {name: found}


def _rows(file: Path, download: Download) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Group, place in it and texts of each row of a file. Raises DataError."""
    import pyarrow.parquet as parquet

    try:
        opened = parquet.ParquetFile(file)
        if missing := set(download.columns) - set(opened.schema_arrow.names):
            raise DataError(
                f"{file} has no column {min(missing)}: expected {', '.join(download.columns)}, as in "
                f"{download.repo}."
            )
        for group in range(opened.num_row_groups):
            texts = opened.read_row_group(group, columns=list(download.texts)).to_pylist()
            for row, told in enumerate(texts):
                yield group, row, {name: "" if value is None else str(value) for name, value in told.items()}
    except MALFORMED as error:
        raise DataError(f"{file} cannot be read ({reason(error)}): download it again.") from error
