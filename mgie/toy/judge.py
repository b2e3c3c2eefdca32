"""The judge of the toy world: it tells what is there, not how far away a picture is.

Wherever a thing should be, or was, every form, colour, size and surface is drawn in its place, and nothing:
the right one must be the nearest to what is seen, and clearly so. Between the right picture R and a rival V
an output lies at

    t = <output - R, V - R> / |V - R|^2        0: all R, 0.5: as near to one as to the other, 1: all V

and t may be UNDECIDED at most, for every rival. Noise and blur that have nothing to do with the difference do
not count; an edit half done has t = 0.5. Elsewhere nothing may appear and nothing may change: no small block
of the output may be off on average.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from mgie.data.images import decode, decode_mask
from mgie.errors import DataError
from mgie.toy import photos
from mgie.toy.things import COLOURS, FORMS, MARKS, SIZES, SURFACES, UNIT, Thing, mask, tile
from mgie.toy.world import GROUNDS, PATTERNS, Backdrop, Scene, ground
from mgie.types import EditPair

UNDECIDED = 0.36
"""Largest t of a right output."""
BLOCK = 4
"""Side of the blocks that are compared elsewhere, in 64ths."""
OFF = 0.09
"""Largest mean difference (0 to 1) of a block and channel that counts as unchanged."""
REACH = max(SIZES.values()) + 1
"""From a place's middle to the edge of what is looked at there, in 64ths."""
NOTHING = ("nothing",)

Levels = Float[ndarray, "y x 3"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found."""

    right: bool
    why: str


def judge(pair: EditPair, output: Image.Image) -> Verdict:
    """Did the edit come out as asked? `pair` is one that the toy world made, perhaps stored and read again.

    Raises DataError for another one.
    """
    if (world := pair.meta.get("world")) not in JUDGES:
        raise DataError(
            f"pair {pair.key} is not of the toy world (its meta says world={world!r}), so its judge cannot "
            "tell whether an edit is right: make pairs with `mgie prepare toy`."
        )
    return JUDGES[world](pair, _seen(pair, output))


def wrong_things(pair: EditPair, output: Image.Image) -> dict[Thing, str]:
    """The things that a scene should have, each with what is wrong at its place; empty where nothing is."""
    after, seen = Scene.from_json(pair.meta["after"]), _seen(pair, output)
    return _wrong_things(after, seen, _levels(ground(after.backdrop, len(seen))))


def _seen(pair: EditPair, output: Image.Image) -> Levels:
    side = decode(pair.target, name=pair.key).width
    output = output.convert("RGB")
    if output.size != (side, side):
        output = output.resize((side, side), Image.Resampling.BICUBIC)
    return _levels(output)


def _wrong_things(after: Scene, seen: Levels, base: Levels) -> dict[Thing, str]:
    covers = _covers(after, len(seen))
    anywhere = np.any(covers, axis=0)
    looks = [(*thing.look, thing.mark) if thing.mark else thing.look for thing in after.things]
    return {
        thing: _what_is_at(thing, right, seen, base, anywhere & ~covered)
        for thing, right, covered in zip(after.things, looks, covers)
    }


def _covers(after: Scene, side: int) -> Bool[ndarray, "_ y x"]:
    """Where each thing is."""
    found = np.zeros((len(after.things), side, side), bool)
    for cover, thing in zip(found, after.things):
        cover |= np.asarray(mask(thing, side)) > 0
    return found


def _judge_scene(pair: EditPair, seen: Levels) -> Verdict:
    after, side = Scene.from_json(pair.meta["after"]), len(seen)
    before = Scene.from_json(pair.meta["before"]) if pair.meta.get("before") else after
    base = _levels(ground(after.backdrop, side))
    anywhere = np.any(_covers(after, side), axis=0)
    # Things: what should be there, and what is there no more.
    for thing, said in _wrong_things(after, seen, base).items():
        if said:
            return Verdict(False, f"where the {thing} should be, {said}")
    middles = {(thing.x, thing.y) for thing in after.things}
    for thing in before.things:
        if (thing.x, thing.y) not in middles and (said := _what_is_at(thing, NOTHING, seen, base, anywhere)):
            return Verdict(False, f"where the {thing} was and nothing should be, {said}")
    # The backdrop, and everything else.
    free = ~_grown(anywhere, side // UNIT)
    rivals = {str(other): _levels(ground(other, side)) for other in _backdrops(after, before)}
    if said := _nearer({name: other[free] for name, other in rivals.items()}, base[free], seen[free]):
        return Verdict(False, f"the {after.backdrop} {said}")
    worst, (x, y) = _worst_block(seen - base, free, BLOCK * side // UNIT)
    if worst > OFF:
        return Verdict(False, f"around ({x}, {y}) the picture is {worst:.2f} off, where {OFF} is allowed")
    return Verdict(
        True, f"all {len(after.things)} things as they should be, elsewhere {worst:.2f} off at most"
    )


def _what_is_at(
    thing: Thing, right: tuple[str, ...], seen: Levels, base: Levels, taken: Bool[ndarray, "y x"]
) -> str:
    """What is wrong at a thing's place, in words; empty where there is what is right."""
    side = len(seen)
    looks, drawn = _drawn_looks(side, bool(thing.mark))
    edge = drawn.shape[1]
    left, top = (round((centre - REACH) * side / UNIT) for centre in (thing.x, thing.y))
    ys, xs = slice(max(top, 0), min(top + edge, side)), slice(max(left, 0), min(left + edge, side))
    part = drawn[:, ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
    under, free = base[ys, xs], ~taken[ys, xs]
    pictures = (under + part[..., 3:] * (part[..., :3] - under))[:, free]
    places = dict(zip(looks, pictures)) | {NOTHING: under[free]}
    wanted = places.pop(right)
    return _nearer({" ".join(look): picture for look, picture in places.items()}, wanted, seen[ys, xs][free])


def _nearer(rivals: Mapping[str, ndarray], right: ndarray, seen: ndarray) -> str:
    """The rival that an output rather looks like, in words; empty where there is none."""
    if not rivals or not right.size:
        return ""
    pictures, seen = np.stack([rival.ravel() for rival in rivals.values()]), seen.ravel()
    ways = pictures - right.ravel()
    lengths = np.square(ways).sum(1)
    t = np.where(lengths > 1e-6, ways @ (seen - right.ravel()) / np.maximum(lengths, 1e-6), -1)
    if t.max() <= UNDECIDED:
        return ""
    near = np.where(t > UNDECIDED, np.square(pictures - seen).sum(1), np.inf)
    return f"it looks like {list(rivals)[int(near.argmin())]} (t = {t[near.argmin()]:.2f})"


@lru_cache(maxsize=4)
def _drawn_looks(side: int, marked: bool) -> tuple[list[tuple[str, ...]], Float[ndarray, "n y x 4"]]:
    """Every look of a thing, or of a `marked` one, in the middle of squares of 2 REACH."""
    looks: list[tuple[str, ...]] = list(itertools.product(SIZES, SURFACES, COLOURS, FORMS))
    looks += [(*look, mark) for look in looks for mark in MARKS] if marked else []
    edge = round(2 * REACH * side / UNIT)
    drawn = np.zeros((len(looks), edge, edge, 4), np.float32)
    for number, (size, surface, colour, form, *mark) in enumerate(looks):
        picture = np.asarray(tile(form, size, colour, surface, side, *mark), np.float32) / 255
        first = (edge - len(picture)) // 2
        drawn[number, first : first + len(picture), first : first + len(picture)] = picture
    return looks, drawn


def _backdrops(after: Scene, before: Scene) -> list[Backdrop]:
    """What else could be behind the things."""
    every = [Backdrop(pattern=p, colour=c) for p, c in itertools.product(PATTERNS, GROUNDS)]
    return [each for each in (*every, before.backdrop) if each != after.backdrop]


def _grown(area: Bool[ndarray, "y x"], pixels: int) -> Bool[ndarray, "y x"]:
    padded = np.pad(area, pixels)
    shifts = itertools.product(range(2 * pixels + 1), repeat=2)
    height, width = area.shape
    return np.any([padded[y : y + height, x : x + width] for y, x in shifts], axis=0)


def _worst_block(off: Levels, free: Bool[ndarray, "y x"], edge: int) -> tuple[float, tuple[int, int]]:
    """The largest mean difference of a block, of which half at least must be free, and where that is."""
    worst, where = 0.0, (0, 0)
    for y in range(0, len(off) - edge + 1, edge // 2):
        for x in range(0, len(off) - edge + 1, edge // 2):
            here = free[y : y + edge, x : x + edge]
            if 2 * here.sum() >= here.size:
                mean = float(np.abs(off[y : y + edge, x : x + edge][here].mean(0)).max())
                worst, where = max((worst, where), (mean, (x + edge // 2, y + edge // 2)))
    return worst, where


def _judge_photo(pair: EditPair, seen: Levels) -> Verdict:
    assert pair.source is not None
    source = _levels(decode(pair.source, name=pair.key))
    inside = np.ones(source.shape[:2], bool)
    if "region" in pair.meta:
        inside = photos.region_mask(pair.meta["region"], len(source))
    if pair.mask is not None:
        inside = np.asarray(decode_mask(pair.mask, name=pair.key)) > 127
    op = pair.meta.get("op", pair.kind)
    results = {"no edit": source} | {name: do(source) for name, do in photos.EVERY.items()}
    right = results.pop(op)
    rivals = {name: picture[inside] for name, picture in results.items()}
    if said := _nearer(rivals, right[inside], seen[inside]):
        return Verdict(False, f"instead of {op}, {said}")
    way = (right - source)[inside].ravel()
    strength = float(way @ (seen - source)[inside].ravel() / max(float(way @ way), 1e-6))
    if strength > 1 + UNDECIDED:
        return Verdict(False, f"{op} is {strength:.1f} times as strong as it should be")
    if not inside.all():
        worst, (x, y) = _worst_block(seen - source, ~_grown(inside, 1), BLOCK * len(seen) // UNIT)
        if worst > OFF:
            return Verdict(
                False, f"around ({x}, {y}), outside, it is {worst:.2f} off, where {OFF} is allowed"
            )
    return Verdict(True, f"{op}, {strength:.2f} times as strong as it should be")


def _levels(image: Image.Image) -> Levels:
    return np.asarray(image, np.float32) / 255


JUDGES: dict[str, Callable[[EditPair, Levels], Verdict]] = {"scene": _judge_scene, "photo": _judge_photo}
"""What `meta` says of a pair's world -> who judges it."""
