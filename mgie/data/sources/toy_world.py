"""The reader of the toy world (mgie/toy/scenes.py)."""

from mgie.data.sources.base import Options, Splits
from mgie.toy.scenes import toy_pairs

TRAIN, TEST = 16_000, 500


def read(where: str, options: Options) -> Splits:
    """Drawn scenes and edits of photographs; the test split shares neither scenes nor photographs with the
    other.

    `where` may name the kinds of edits, with commas; one that is named twice comes twice as often.
    """
    kinds = where.split(",") if where else None
    counts = {
        "train": TRAIN if options.count is None else options.count,
        "test": TEST if options.test is None else options.test,
    }
    return {
        split: toy_pairs(count, seed=options.seed, split=split, size=options.size, kinds=kinds)
        for split, count in counts.items()
        if count
    }
