"""Seg-Mix: cut-outs of several subjects on one canvas, so that their looks do not mix.

Jang et al., "Identity Decoupling for Multi-Subject Personalization of Text-to-Image Models", NeurIPS 2024
(MuDI). What the released program fixes at a canvas of 1024 pixels is a part of the canvas here;
its rounding and its thresholds are `legacy`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from llava_patch.ranges import Range
from mgie.errors import ConfigError
from mgie.personalization.subjects import Photo, is_thing
from mgie.ranges import NumberOrNone, Share
from mgie.types import Size

Style = Literal["mudi", "flux", "corners"]
"""How a canvas looks and what is said of it. mudi: white, as published. flux: the authors' later form, white
or black, things mirrored at times, and words for the looks of a collage, which one then does not ask for.
corners: white, and the words say which thing is where, for models that mix up names."""
Factor = Annotated[float, Range(gt=0, le=1)]
Margin = Annotated[float, Range(gt=0, le=0.5)]
Several = Annotated[int, Range(ge=2, le=16)]

EDGE = 1 / 32
"""Part of the canvas that is left free at the edge of a slot, and above and below."""
PASTED_LEGACY = 123
"""From which grey value on a resized mask's pixel is pasted by the released program."""
BLACK_SHARE = 0.25
MIRRORED_SHARE = 0.5
COLLAGE = "pasted, sticker, unnatural, glued, clip-art, attached, collage, low quality"
"""What the later form says of its canvases, beside what is on them."""


@dataclass(frozen=True, kw_only=True)
class SegMixConfig:
    """How often, and how, cut-outs are mixed."""

    prob: Share = 0.3
    """Share of the samples that are mixed; the rest are the photos themselves."""
    start_step: NumberOrNone = 0
    """The first step of a run in which anything is mixed."""
    style: Style = "mudi"
    together: list[Several] = field(default_factory=lambda: [2])
    """How many subjects a canvas shows: drawn anew from these, never more than there are."""
    least: Factor = 0.75
    """Smallest size of a thing, as a part of what fits into its slot."""
    margin: Margin = 0.25
    """Part of the canvas by which a thing stands off its side at most. Two may overlap: that teaches what is
    hidden behind what."""
    scales: dict[str, Factor] = field(default_factory=dict)
    """Size of a subject by its name, as that part of what fits, instead of a draw."""

    def __post_init__(self) -> None:
        if not self.together:
            raise ConfigError(
                "segmix.together is empty: expected how many subjects a canvas shows, such as [2]."
            )

    @classmethod
    def flux(cls) -> "SegMixConfig":
        """As in the later trainer of the same authors."""
        return cls(style="flux", least=0.9, margin=1 / 16)


@dataclass(frozen=True, kw_only=True, eq=False)
class CutOut:
    """A thing out of its photo."""

    image: Image.Image
    mask: Image.Image
    """As large, one channel, soft at its edge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one cut-out lies on a canvas, in pixels from its upper left corner."""

    x: int
    y: int
    width: int
    height: int
    mirrored: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where all of them lie."""

    places: tuple[Place, ...]
    order: tuple[int, ...]
    """Their numbers, from the lowest to that on top."""
    black: bool = False
    """What is behind them: black, or white."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Composed:
    """A canvas."""

    image: Image.Image
    masks: Bool[np.ndarray, "k y x"]
    """Where each cut-out was pasted, hidden parts included."""

    @property
    def union(self) -> Bool[np.ndarray, "y x"]:
        """Where anything was pasted."""
        return np.any(self.masks, axis=0)


def cut_out(photo: Photo, *, legacy: bool = False) -> CutOut:
    """A photo's thing in its bounding box; `legacy` leaves out the box's last row and column. Raises
    ConfigError for a photo that has no mask."""
    if photo.mask is None:
        raise ConfigError(
            f"{photo.name} has no mask: expected one to cut it out; make it with --masks PHRASE."
        )
    rows, columns = np.nonzero(np.asarray(photo.mask) > 128 if legacy else is_thing(photo.mask))
    more = 0 if legacy else 1
    box = (columns.min(), rows.min(), columns.max() + more, rows.max() + more)
    left, top, right, bottom = (int(edge) for edge in box)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    return CutOut(
        image=photo.image.crop((left, top, right, bottom)), mask=photo.mask.crop((left, top, right, bottom))
    )


def compose(
    cut_outs: Sequence[CutOut], placement: Placement, canvas: int | Size, *, legacy: bool = False
) -> Composed:
    """Paste the cut-outs, bicubically resized, onto a canvas of `canvas` x `canvas` pixels, or of that width
    and height. No pixel is a mixture of two: a mask's edge is cut where it reaches one half."""
    width, height = (canvas, canvas) if isinstance(canvas, int) else canvas
    image = Image.new("RGB", (width, height), "black" if placement.black else "white")
    masks = np.zeros((len(cut_outs), height, width), bool)
    for number in placement.order:
        place, cut = placement.places[number], cut_outs[number]
        size = (place.width, place.height)
        thing, soft = (each.resize(size, Image.Resampling.BICUBIC) for each in (cut.image, cut.mask))
        if place.mirrored:
            thing, soft = ImageOps.mirror(thing), ImageOps.mirror(soft)
        hard = np.asarray(soft) >= PASTED_LEGACY if legacy else is_thing(soft)
        image.paste(thing, (place.x, place.y), Image.fromarray(hard))
        masks[number, place.y : place.y + place.height, place.x : place.x + place.width] = hard
    return Composed(image=image, masks=masks)


def largest_factor(size: tuple[int, int], canvas: int, slots: int = 2) -> float:
    """By how much a cut-out of (width, height) may grow until it fills its slot, but for the edge.

    >>> largest_factor((66, 80), 1024)
    7.2727272727272725
    """
    edge = canvas * EDGE
    return min((canvas / slots - edge) / size[0], (canvas - edge) / size[1])


def side_by_side(
    sizes: Sequence[tuple[int, int]],
    *,
    canvas: int,
    first_is_left: bool,
    margins: tuple[int, int],
    heights: tuple[int, int],
    right_on_top: bool,
) -> Placement:
    """Two things of these (widths, heights) as the paper places them: `margins` are the left one's distance
    from the left side and the right one's from the right side, `heights` what is above each."""
    left, right = (0, 1) if first_is_left else (1, 0)
    across = {left: margins[0], right: canvas - margins[1] - sizes[right][0]}
    down = {left: heights[0], right: heights[1]}
    places = tuple(
        Place(x=across[number], y=down[number], width=width, height=height)
        for number, (width, height) in enumerate(sizes)
    )
    return Placement(places=places, order=(left, right) if right_on_top else (right, left))


def sample_placement(
    rng: np.random.Generator,
    sizes: Sequence[tuple[int, int]],
    *,
    canvas: int,
    config: SegMixConfig | None = None,
    scales: Sequence[float | None] | None = None,
    level: bool = False,
    in_order: bool = False,
) -> Placement:
    """Draw where cut-outs of these (widths, heights) lie; two or more of them.

    Each is as large as its slot allows, times its `scales` or a draw. `level` puts all at one height and
    `in_order` from left to right, as the pictures of the prior are. How many numbers are drawn does not
    depend on what they are: a placement is the same one on a canvas of another size, up to its rounding.
    """
    config, count = config or SegMixConfig(), len(sizes)
    draws = rng.random((7, count))
    fixed = scales or [None] * count
    factors = [
        largest_factor(size, canvas, count)
        * (config.least + (1 - config.least) * u if scale is None else scale)
        for size, scale, u in zip(sizes, fixed, draws[0], strict=True)
    ]
    grown = [
        (max(1, math.floor(width * factor)), max(1, math.floor(height * factor)))
        for (width, height), factor in zip(sizes, factors, strict=True)
    ]
    highest = max(height for _, height in grown)
    heights = [
        _whole(draws[1][0 if level else number], 0, canvas - (highest if level else height))
        for number, (_, height) in enumerate(grown)
    ]
    across = list(range(count)) if in_order else [int(number) for number in np.argsort(draws[2])]
    if count == 2:
        margins = tuple(_whole(u, 1, max(1, math.floor(canvas * config.margin))) for u in draws[3])
        placement = side_by_side(
            grown, canvas=canvas, first_is_left=across[0] == 0, margins=(margins[0], margins[1]),
            heights=(heights[across[0]], heights[across[1]]), right_on_top=bool(draws[4][0] < 0.5),
        )  # fmt: skip
    else:
        slot, starts = canvas / count, {}
        for position, number in enumerate(across):
            free = slot - grown[number][0] + canvas * config.margin / 2
            start = math.floor(position * slot) + _whole(draws[3][number], 0, math.floor(free))
            starts[number] = min(start, canvas - grown[number][0])
        places = tuple(
            Place(x=starts[number], y=heights[number], width=width, height=height)
            for number, (width, height) in enumerate(grown)
        )
        placement = Placement(places=places, order=tuple(int(each) for each in np.argsort(draws[4])))
    return _in_style(placement, draws[5:], config.style)


def mixed_caption(phrases: Sequence[str], placement: Placement, style: Style = "mudi") -> str:
    """What is said of a canvas: its subjects, the sampled one first, on whichever side it is."""
    if style == "corners":
        phrases = [f"{phrase} {where}" for phrase, where in zip(phrases, _sides(placement), strict=True)]
    if style == "flux":
        named = _listed([f"a small {phrase}" for phrase in phrases])
        ground = "black" if placement.black else "white"
        return f"a close out photo of {named}, {ground} simple background, {COLLAGE}"
    return f"a photo of {_listed([f'a {phrase}' for phrase in phrases])}, simple background."


def _in_style(placement: Placement, draws: np.ndarray, style: Style) -> Placement:
    """Mirrored at times, and at times on black, where a style has that. `draws`: two for each thing."""
    if style != "flux":
        return placement
    places = tuple(
        replace(place, mirrored=bool(u < MIRRORED_SHARE)) for place, u in zip(placement.places, draws[0])
    )
    return replace(placement, places=places, black=bool(draws[1][0] < BLACK_SHARE))


def _sides(placement: Placement) -> list[str]:
    """Where each thing is, in words."""
    middles = [place.x + place.width / 2 for place in placement.places]
    ranks = np.argsort(np.argsort(middles, kind="stable")).tolist()
    if len(ranks) <= 3:
        words = (
            ["on the left", "on the right"]
            if len(ranks) == 2
            else ["on the left", "in the middle", "on the right"]
        )
        return [words[rank] for rank in ranks]
    return [f"as number {rank + 1} from the left" for rank in ranks]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _whole(u: float, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included, by a number in [0, 1)."""
    return low + math.floor(u * (max(high, low) - low + 1))
