"""Pairs of the toy world: scenes, photographs, and scenes painted from nothing.

    from mgie.toy.pairs import ToyPairs
    from mgie.toy.judge import judge
    pair = ToyPairs(1, seed=7, split="test")[0]
    judge(pair, edited)          # Verdict(right=True, why="...")

`meta` has what the judge asks for: the scenes before and after, or the photograph and what was done to it.
"""

import io
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from PIL import Image

from mgie.errors import ConfigError
from mgie.toy import edits, photos
from mgie.toy.controls import CONTROLS, Controlled, hand_mask
from mgie.toy.things import UNIT
from mgie.toy.world import render
from mgie.types import Box, EditPair

PAINT, PHOTO = 0.1, 0.3
"""Parts of the pairs: painted from nothing, photographs; the others are edited scenes."""
KINDS: dict[str, float] = (
    {kind: (1 - PAINT - PHOTO) * part for kind, part in edits.KINDS.items()}
    | {"paint": PAINT}
    | {op: PHOTO / len(photos.EVERY) for op in photos.EVERY}
)
"""Every kind of edit -> its part of the pairs."""
MASKED = "masked"
"""Kind of photographs that are edited inside a mask."""
ASKED_FOR = (MASKED, *CONTROLS)
"""Kinds that come only when they are asked for by name."""
BY_NAME = 0.1
"""As often one of these comes beside the others."""
DESCRIBE = "describe the picture"
"""What a small language model is asked while it learns to see; the answer is the scene in words."""


class ToyPairs(Sequence[EditPair]):
    """Pairs of a split, drawn when they are asked for: the n-th one depends on seed, split, n, size and the
    choice of kinds, not on how many there are.

    Photographs come out of the packages scikit-image and scikit-learn (the extra `toy`).
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int,
        split: str = "train",
        size: int = UNIT,
        kinds: Sequence[str] | None = None,
    ):
        """Of `size` pixels; a kind that is named twice comes twice as often. Raises ConfigError."""
        if split not in photos.SPLITS:
            raise ConfigError(
                f"the toy world has no split {split!r}: expected one of {', '.join(photos.SPLITS)}."
            )
        if size < UNIT or size % UNIT:
            raise ConfigError(f"size={size}: toy pictures have {UNIT} pixels or a multiple of it.")
        unknown = [kind for kind in kinds or () if kind not in (*KINDS, *ASKED_FOR)]
        if unknown or (kinds is not None and not kinds):
            known = ", ".join((*KINDS, *ASKED_FOR))
            raise ConfigError(f"the toy world has no kind of edit {unknown}: expected some of {known}.")
        self.total, self.seed, self.split, self.size = count, seed, split, size
        self.kinds = tuple(kinds or KINDS)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.total:
            raise IndexError(f"pair {index} of {self.total}")
        draw = Random(f"{self.seed}/{self.split}/{index}")
        kind = draw.choices(self.kinds, [KINDS.get(each, BY_NAME) for each in self.kinds])[0]
        control, mask = Controlled(), None
        if kind in photos.EVERY:
            before, after, asked, said, facts = photos.draw_photo(draw, self.split, kind, self.size)
        elif kind == MASKED:
            mask = hand_mask(draw, self.size)
            before, after, asked, said, facts = photos.draw_masked(draw, self.split, mask)
        else:
            control = CONTROLS[kind](draw, self.split) if kind in CONTROLS else control
            edited = control.edited or edits.draw_edit(draw, self.split, kind)
            before = edited.before and render(edited.before, self.size)
            after, asked, said = render(edited.after, self.size), edited.asked, edited.said
            facts = {"world": "scene", "edit": edited.edit, "after": edited.after.to_json()}
            facts |= {"before": edited.before.to_json()} if edited.before else {}
            facts |= {"unseen": "yes"} if edited.after.unseen else {}
            mask = _mask(control.mask, self.size)
        return EditPair(
            key=f"toy/{self.split}/{self.seed}/{index:06d}", instruction=asked, expressive=said, kind=kind,
            source=before and png(before), target=png(after), meta=facts,
            mask=mask and png(mask), regions=control.regions,
            pictures=tuple(png(render(shown, self.size)) for shown in control.pictures),
            subjects=control.subjects, task=kind if kind in ASKED_FOR else "edit",
        )  # fmt: skip


def corpus(count: int) -> Iterator[str]:
    """Sentences of the toy world, for training a tokenizer: asked, said, described. No pictures are made."""
    for op, wordings in photos.ASKED.items():
        yield from wordings
        for light in photos.LIGHTS:
            for name in photos.TONES:
                yield photos.SAID[op].format(before=f"{light} {name}", after=f"{light} {name}")
    for region in photos.REGIONS:
        yield f"but only in the {region}, in the {region} the"
    kinds = {**edits.KINDS, "paint": 0.1}
    for index in range(count // 2):
        draw = Random(f"corpus/{index}")
        edited = edits.draw_edit(draw, "train", draw.choices(list(kinds), list(kinds.values()))[0])
        yield edited.asked
        yield edited.said
        if index % 4 == 0:
            yield DESCRIBE
            yield str(edited.after)


def _mask(boxes: Sequence[Box], side: int) -> Image.Image | None:
    """White in these boxes, black elsewhere."""
    if not boxes:
        return None
    image = Image.new("L", (side, side))
    for box in boxes:
        left, top, right, bottom = (round(edge * side) for edge in box)
        image.paste(255, (left, top, right, bottom))
    return image


def png(image: Image.Image) -> bytes:
    """The bytes of a picture's file, without a photograph's colour profile."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, icc_profile=None)
    return file.getvalue()
