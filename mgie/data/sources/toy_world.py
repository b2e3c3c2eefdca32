"""The reader of the toy world (mgie/toy/pairs.py)."""

from mgie.data.sources.base import Options, Splits
from mgie.toy.pairs import ToyPairs


def read(where: str, options: Options) -> Splits:
    """Drawn scenes and edits of photographs; the test split shares neither scenes nor photographs with the
    other. `where` may name the kinds of edits, with commas; one that is named twice comes twice as often."""
    asked = {"train": (options.count, 12_000), "test": (options.test, 500)}
    counts = {split: usual if count is None else count for split, (count, usual) in asked.items()}
    kinds = where.split(",") if where else None
    return {
        split: ToyPairs(count, seed=options.seed, split=split, size=options.size, kinds=kinds)
        for split, count in counts.items()
        if count
    }
