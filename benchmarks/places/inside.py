"""Edits inside a mask: what stays outside, what is right inside, masks that are found."""

from collections.abc import Sequence
from statistics import median

import numpy as np
from PIL import Image, ImageChops
from places.pairs import drawn, edited, masks, right, sources, turned, untouched, white
from places.telling import Line

from mgie.controllers.region import RegionOptions
from mgie.pipeline import MGIEPipeline
from mgie.types import EditPair

HARD = RegionOptions(feather=0.0)
WAYS = {
    "features": {"region": RegionOptions(feather=0.0, features=True)},
    "attention": {"region": RegionOptions(feather=0.0, attention=True)},
    "features and attention": {"region": RegionOptions(feather=0.0, features=True, attention=True)},
    "no seam": {"region": RegionOptions(feather=0.0, seam=0.0)},
    "a feather": {"region": RegionOptions()},
    "preserve=soft": {"region": HARD, "preserve": "soft"},
}
"""What else a mask can be told."""


def inside(pipe: MGIEPipeline, count: int, seed: int) -> list[Line]:
    """Half scenes with a mask around what changes, half photographs with one drawn as by hand."""
    scenes, photos = drawn("inside", count // 2, seed), drawn("masked", count - count // 2, seed)
    pairs = [*scenes, *photos]
    before, allowed, words = sources(pairs), masks(pairs), [pair.instruction for pair in pairs]
    plain = edited(pipe, before, words).images
    made = edited(pipe, before, words, {"mask": allowed}, region=HARD).images
    pasted = [Image.composite(new, old, mask) for new, old, mask in zip(plain, before, allowed)]
    beyond = [ImageChops.invert(mask) for mask in allowed]
    wrong = edited(pipe, before, words, {"mask": beyond}, region=HARD).images
    paste, most = right(pairs, pasted), len(scenes)
    of_scenes = right(scenes, plain[:most])
    lines = [
        Line(what="outside as it was", value=untouched(before, made, allowed), least=1.0),
        Line(what="right", value=right(pairs, made), least=max(paste - 0.02, 0.0), beside=paste),
        Line(what="right, edited everywhere and pasted", value=paste),
        Line(what="right, scenes", value=right(scenes, made[:most]), least=of_scenes, beside=of_scenes),
        Line(what="right, scenes, without a mask", value=of_scenes),
        Line(what="control: outside as it was, without a mask", value=untouched(before, plain, allowed),
             most=0.02),
        Line(what="control: right with the mask turned round", value=right(pairs, wrong), most=0.02),
    ]  # fmt: skip
    for name, way in WAYS.items():
        images = edited(pipe, before, words, {"mask": allowed}, **way).images
        lines.append(Line(what=f"right, with {name}", value=right(pairs, images)))
    return [*lines, *found(pipe, scenes)]


def found(pipe: MGIEPipeline, scenes: Sequence[EditPair]) -> list[Line]:
    """Masks that the editor finds itself, by the words of the pair and by another's."""
    before, words = sources(scenes), [pair.instruction for pair in scenes]
    true = [white(mask) for mask in masks(scenes)]

    def overlap(told: Sequence[str]) -> float:
        own = edited(pipe, before, told, mask="auto", region=HARD).mask or []
        return median(_iou(white(mask), real) for mask, real in zip(own, true))

    iou, other = overlap(words), overlap(turned(words))
    return [
        Line(what="median IoU of mask=auto, scenes", value=iou, least=0.5, unit=" "),
        Line(what="control: the same by another's words", value=other, most=iou / 2, beside=iou, unit=" "),
    ]


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))
