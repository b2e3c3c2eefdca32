"""Pairs of the toy world: scenes, photographs, and scenes painted from nothing.

    from mgie.toy.pairs import world_pairs
    from mgie.toy.verdict import judge
    pair = next(world_pairs(1, seed=7, split="test"))
    judge(pair, edited)          # Verdict(right=True, why="...")

`meta` has what the judge asks for: the scenes before and after, or the photograph and what was done to it.
"""

import io
from collections.abc import Iterator, Sequence
from random import Random

from PIL import Image

from mgie.errors import ConfigError
from mgie.toy import edits, photos
from mgie.toy.things import UNIT
from mgie.toy.world import render
from mgie.types import EditPair

PAINT, PHOTO = 0.1, 0.3
"""Parts of the pairs: painted from nothing, photographs; the others are edited scenes."""
KINDS: dict[str, float] = (
    {kind: (1 - PAINT - PHOTO) * part for kind, part in edits.KINDS.items()}
    | {"paint": PAINT}
    | {op: PHOTO / len(photos.EVERY) for op in photos.EVERY}
)
"""Every kind of edit -> its part of the pairs."""


def world_pairs(
    count: int, *, seed: int, split: str = "train", size: int = UNIT, kinds: Sequence[str] | None = None
) -> Iterator[EditPair]:
    """Yield `count` pairs of a split, pictures of `size` pixels.

    The n-th one depends on seed, split, n, size and the choice of kinds, not on `count`. Photographs come out
    of the packages scikit-image and scikit-learn (the extra `toy`).
    """
    if split not in photos.SPLITS:
        raise ConfigError(
            f"the toy world has no split {split!r}: expected one of {', '.join(photos.SPLITS)}."
        )
    if size < UNIT or size % UNIT:
        raise ConfigError(f"size={size}: pictures of the toy world have {UNIT} pixels or a multiple of it.")
    unknown = [kind for kind in kinds or () if kind not in KINDS]
    if unknown or (kinds is not None and not kinds):
        raise ConfigError(
            f"the toy world has no kind of edit {unknown}: expected some of {', '.join(KINDS)}."
        )
    names = list(kinds or KINDS)
    weights = [KINDS[kind] for kind in names]
    for index in range(count):
        draw = Random(f"{seed}/{split}/{index}")
        kind = draw.choices(names, weights)[0]
        if kind in photos.EVERY:
            before, after, asked, said, facts = photos.draw_photo(draw, split, kind, size)
        else:
            edited = edits.draw_edit(draw, split, kind)
            before = edited.before and render(edited.before, size)
            after, asked, said = render(edited.after, size), edited.asked, edited.said
            facts = {"world": "scene", "edit": edited.edit, "after": edited.after.to_json()}
            facts |= {"before": edited.before.to_json()} if edited.before else {}
            facts |= {"unseen": "yes"} if edited.after.unseen else {}
        yield EditPair(
            key=f"toy/{split}/{seed}/{index:06d}", instruction=asked, expressive=said, kind=kind,
            source=before and png(before), target=png(after), meta=facts,
        )  # fmt: skip


def png(image: Image.Image) -> bytes:
    """The bytes of a picture's file, without a photograph's colour profile."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, icc_profile=None)
    return file.getvalue()
