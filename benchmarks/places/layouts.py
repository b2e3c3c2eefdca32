"""Several things in boxes by one painting: untrained, with a mask, and by trained blocks."""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from PIL import Image, ImageDraw
from places.pairs import drawn, edited, right, share, sources, turned, untouched
from places.telling import Line

from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.region import RegionOptions
from mgie.pipeline import MGIEPipeline
from mgie.toy.judge import wrong_things
from mgie.types import EditPair, Region

NOTHING = LayoutOptions(around="nothing")
THREE = 3
TIMED = 20
"""Pictures of which times are taken."""


def untrained(pipe: MGIEPipeline, count: int, seed: int) -> list[Line]:
    """Two or three edits of a scene at once, against one after the other."""
    pairs = drawn("orders", count, seed)
    before, words = sources(pairs), [pair.instruction for pair in pairs]
    made = _placed(pipe, pairs, [pair.regions for pair in pairs])
    rotated = _placed(pipe, pairs, [_rotated(pair.regions) for pair in pairs])
    without = right(pairs, edited(pipe, before, words).images)
    apart = right(pairs, _one_by_one(pipe, pairs))
    three = [pair for pair in pairs if len(pair.regions) == THREE][:TIMED]
    ratio = [_seconds_at_once(pipe, pair) / _seconds_apart(pipe, pair) for pair in three]
    return [
        Line(what="right, at once", value=right(pairs, made), least=0.7 * apart, beside=apart),
        Line(what="right, one after the other", value=apart),
        Line(what="time of three edits at once, by that of one after the other",
             value=median(ratio) if ratio else 0.0, most=0.5, beside=float(len(ratio)), unit=" "),
        Line(what="control: right with rotated phrases", value=right(pairs, rotated), most=0.05),
        Line(what="control: right without boxes", value=without, most=0.05),
    ]  # fmt: skip


def together(pipe: MGIEPipeline, count: int, seed: int) -> list[Line]:
    """The same inside a mask of all boxes."""
    pairs = drawn("orders", count, seed)
    allowed = [_covered(pair) for pair in pairs]
    regions, hard = [pair.regions for pair in pairs], RegionOptions(feather=0.0)
    free = right(pairs, _placed(pipe, pairs, regions))
    words, before = [pair.instruction for pair in pairs], sources(pairs)
    each = {"mask": allowed, "regions": regions}
    made = edited(pipe, before, words, each, layout=NOTHING, region=hard).images
    return [
        Line(what="outside as it was", value=untouched(before, made, allowed), least=1.0),
        Line(what="right", value=right(pairs, made), least=max(free - 0.02, 0.0), beside=free),
    ]


def learnt(taught: MGIEPipeline, plain: MGIEPipeline, count: int, seed: int) -> list[Line]:
    """Layouts of things, by trained blocks; beside them phrases in wrong boxes, no boxes, no blocks."""
    pairs = drawn("layout", count, seed)
    regions = [pair.regions for pair in pairs]
    made = _placed(taught, pairs, regions, LayoutOptions())
    rotated = _placed(taught, pairs, [_rotated(each) for each in regions], LayoutOptions())
    words, before = [pair.instruction for pair in pairs], sources(pairs)
    without = edited(taught, before, words).images
    worded = [tuple(replace(one, phrase=f"a {one.phrase} appears") for one in each) for each in regions]
    fused = right(pairs, _placed(plain, pairs, worded))
    whole = right(pairs, made)
    return [
        Line(what="things right", value=_things(pairs, made), least=0.8),
        Line(what="things right, pictures as they were", value=_things(pairs, before)),
        Line(what="whole pictures right", value=whole, least=max(0.55, 1.2 * fused)),
        Line(what="whole pictures right, without training", value=fused),
        Line(what="control: right with rotated phrases", value=right(pairs, rotated), most=0.05),
        Line(what="control: right without boxes", value=right(pairs, without), most=0.02),
    ]


def _placed(
    pipe: MGIEPipeline,
    pairs: Sequence[EditPair],
    regions: Sequence[Sequence[Region]],
    layout: LayoutOptions = NOTHING,
) -> list[Image.Image]:
    words = [pair.instruction for pair in pairs]
    return edited(pipe, sources(pairs), words, {"regions": regions}, layout=layout).images


def _one_by_one(pipe: MGIEPipeline, pairs: Sequence[EditPair]) -> list[Image.Image]:
    images = sources(pairs)
    for turn in range(max(len(pair.regions) for pair in pairs)):
        rows = [row for row, pair in enumerate(pairs) if turn < len(pair.regions)]
        words = [pairs[row].regions[turn].phrase for row in rows]
        for row, image in zip(rows, edited(pipe, [images[row] for row in rows], words).images):
            images[row] = image
    return images


def _seconds_at_once(pipe: MGIEPipeline, pair: EditPair) -> float:
    began = time.perf_counter()
    _placed(pipe, [pair], [pair.regions])
    return time.perf_counter() - began


def _seconds_apart(pipe: MGIEPipeline, pair: EditPair) -> float:
    began = time.perf_counter()
    _one_by_one(pipe, [pair])
    return time.perf_counter() - began


def _things(pairs: Sequence[EditPair], images: Sequence[Image.Image]) -> float:
    """The share of boxes in which there is what should be."""
    found: list[bool] = []
    for pair, image in zip(pairs, images):
        wrong = wrong_things(pair, image)
        boxes = {region.box for region in pair.regions}
        found += [not said for thing, said in wrong.items() if thing.box in boxes]
    return share(found)


def _rotated(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Each phrase in the next one's box."""
    phrases = turned([region.phrase for region in regions])
    return tuple(replace(region, phrase=phrase) for region, phrase in zip(regions, phrases))


def _covered(pair: EditPair) -> Image.Image:
    """White in all boxes of a pair."""
    image = sources([pair])[0]
    mask = Image.new("L", image.size)
    for x0, y0, x1, y1 in (region.box for region in pair.regions if region.box):
        left, top, right_, bottom = (
            round(at * side) for at, side in zip((x0, y0, x1, y1), (*image.size, *image.size))
        )
        ImageDraw.Draw(mask).rectangle((left, top, right_ - 1, bottom - 1), fill=255)
    return mask
