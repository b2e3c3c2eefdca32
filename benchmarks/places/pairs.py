"""Pairs of the toy world, edited in lists, and what is true of the results."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from mgie.data.images import decode, decode_mask
from mgie.pipeline import EditOutput, MGIEPipeline
from mgie.toy.judge import judge
from mgie.toy.pairs import ToyPairs
from mgie.types import EditPair

AT_ONCE = 10
"""Pictures of a call."""


def drawn(kind: str, count: int, seed: int) -> list[EditPair]:
    """Pairs that nobody has learnt from."""
    pairs = ToyPairs(count, seed=seed, split="test", kinds=[kind])
    return [pairs[place] for place in range(count)]


def sources(pairs: Sequence[EditPair]) -> list[Image.Image]:
    """Their pictures before the edit."""
    return [decode(pair.source or b"", name=pair.key) for pair in pairs]


def masks(pairs: Sequence[EditPair]) -> list[Image.Image]:
    """Their masks."""
    return [decode_mask(pair.mask or b"", name=pair.key) for pair in pairs]


def edited(
    pipe: MGIEPipeline,
    pictures: Sequence[Image.Image],
    words: Sequence[str],
    each: dict[str, Sequence[Any]] | None = None,
    **alike: Any,
) -> EditOutput:
    """All results of a call, `AT_ONCE` at a time: `each` has a value for every picture."""
    images, found = [], []
    for first in range(0, len(pictures), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        own = {name: list(values[part]) for name, values in (each or {}).items()}
        made = pipe(list(pictures[part]), list(words[part]), seed=0, **own, **alike)
        assert isinstance(made, EditOutput)
        images += made.images
        found += made.mask or []
    return EditOutput(images=images, said=[], forced=[], mask=found or None)


def right(pairs: Sequence[EditPair], images: Sequence[Image.Image]) -> float:
    """The share that the judge calls right."""
    return share(judge(pair, image).right for pair, image in zip(pairs, images))


def untouched(
    before: Sequence[Image.Image], images: Sequence[Image.Image], allowed: Sequence[Image.Image]
) -> float:
    """The share of pictures of which every byte outside is what it was."""
    return share(
        bool((np.asarray(old) == np.asarray(new))[~white(mask)].all())
        for old, new, mask in zip(before, images, allowed)
    )


def white(mask: Image.Image) -> Bool[np.ndarray, "y x"]:
    """Where a mask lets the picture change."""
    return np.asarray(mask.convert("L")) >= 128


def share(true: Iterable[bool]) -> float:
    """How many of them are."""
    each = list(true)
    return sum(each) / len(each)


def turned(values: Sequence[Any]) -> list[Any]:
    """The same, each one place further."""
    return [*values[1:], *values[:1]]
