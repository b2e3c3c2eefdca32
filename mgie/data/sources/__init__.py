"""Where pairs come from: one reader per layout. Each is an iterator of EditPair with stable keys.

toy, toy:KIND,KIND...      the world that the project makes itself, or some of its kinds of edits
ipr2pr:DIR_OR_HUB          InstructPix2Pix: numbered folders, or the columns of its hub form
magicbrush:DIR_OR_HUB      MagicBrush: train and dev Parquet, and the evaluation layout
pairs:DIR_OR_JSONL         the user's own, or a data set that `mgie prepare` wrote
legacy:DIR                 the original program's .pkl, .tsv and _expressive.json
"""

from collections.abc import Callable
from dataclasses import dataclass

from mgie.data.sources import ipr2pr, legacy, magicbrush, own, toy_world
from mgie.data.sources.base import Options, Splits
from mgie.errors import ConfigError


@dataclass(frozen=True)
class _Reader:
    read: Callable[[str, Options], Splits]
    example: str


READERS = {
    "toy": _Reader(toy_world.read, "toy"),
    "ipr2pr": _Reader(ipr2pr.read, "ipr2pr:DIR"),
    "magicbrush": _Reader(magicbrush.read, "magicbrush:DIR"),
    "pairs": _Reader(own.read, "pairs:DIR_OR_JSONL"),
    "legacy": _Reader(legacy.read, "legacy:DIR"),
}


def open_source(source: str, options: Options) -> Splits:
    """Split -> its rows, read one by one. Raises ConfigError for an unknown source, DataError for one that
    is not there."""
    name, colon, where = source.partition(":")
    if name not in READERS:
        raise ConfigError(
            f"{source!r} is no source: expected one of "
            f"{', '.join(reader.example for reader in READERS.values())}."
        )
    if not where and (colon or name != "toy"):
        raise ConfigError(f"{source!r} is no source: expected {READERS[name].example}.")
    return READERS[name].read(where, options)
