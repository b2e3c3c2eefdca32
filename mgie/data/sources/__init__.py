"""Where pairs come from: one reader per layout. Each is an iterator of EditPair with stable keys.

toy, toy:KIND,KIND...      the world that the project makes itself, or some of its kinds of edits
ipr2pr:DIR_OR_HUB          InstructPix2Pix: numbered folders, or the columns of its hub form
magicbrush:DIR_OR_HUB      MagicBrush: train and dev Parquet, and the evaluation layout
pairs:DIR_OR_JSONL         the user's own, or a data set that `mgie prepare` wrote
legacy:DIR                 the original program's .pkl, .tsv and _expressive.json
"""

from mgie.data.sources import ipr2pr, legacy, magicbrush, own, toy_world
from mgie.data.sources.base import Options, Splits
from mgie.errors import ConfigError

READERS = {
    "toy": toy_world.read,
    "ipr2pr:DIR": ipr2pr.read,
    "magicbrush:DIR": magicbrush.read,
    "pairs:DIR_OR_JSONL": own.read,
    "legacy:DIR": legacy.read,
}


def open_source(source: str, options: Options) -> Splits:
    """Split -> its rows, read one by one. Raises ConfigError for an unknown source, DataError for one that
    is not there."""
    name, _, where = source.partition(":")
    found = next((example for example in READERS if example.partition(":")[0] == name), None)
    if found is None or not (where or source == found):
        expected = f"one of {', '.join(READERS)}" if found is None else found
        raise ConfigError(f"{source!r} is no source: expected {expected}.")
    return READERS[found](where, options)
