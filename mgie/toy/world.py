"""Scenes of the toy world: a backdrop, one to four things, and ways to speak of each.

Everything about a scene is known: where each thing is (`Thing.box`, `mask`), a name that fits it and nothing
else (`names`), the whole of it in words (`str`). It belongs to one split, decided by those words. Some looks
(form, colour and surface together) are in no training scene at all: `UNSEEN`.
"""

import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from random import Random

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from PIL import Image, ImageStat

from mgie.toy import photos
from mgie.toy.things import (
    COLOURS,
    FORMS,
    PLACES,
    SIZES,
    STEP,
    SURFACES,
    UNIT,
    Thing,
    apart,
    draw_thing,
    inside,
)

GROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (140, 140, 140),
    "pink": (255, 165, 190),
    "sky": (135, 200, 250),
    "lime": (170, 245, 150),
    "brown": (130, 85, 45),
}
"""Colours of backdrops; none is a thing's."""
PATTERNS = ("flat", "graded", "checked")
"""How a colour becomes a backdrop; the fourth, "photo", is a faded piece of a photograph."""
PHOTO = 0.2
"""Part of the scenes that lie on a photograph."""
FADED = 0.55
"""What is left of a photograph's contrast."""
CLEAR = 0.16
"""Smallest mean difference (0 to 1) between a thing's colour and what is under it."""
FARTHEST = {"highest": (0, -1), "lowest": (0, 1), "leftmost": (-1, 0), "rightmost": (1, 0)}
"""Name of what lies farthest -> the direction."""
CLEARLY = 8
"""So much farther than all others, in 64ths."""
UNSEEN = frozenset(
    look
    for look in itertools.product(FORMS, COLOURS, SURFACES)
    if zlib.crc32(" ".join(look).encode()) % 10 == 0
)
"""Form, colour and surface that are together in no scene of the split "train"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """What things lie on."""

    pattern: str
    colour: str = ""
    photo: str = ""
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Which pixels of the photograph."""

    def __str__(self) -> str:
        return f"{self.pattern} {self.colour} background" if self.colour else "photo background"


@dataclass(frozen=True, slots=True)
class Scene:
    """A backdrop and the things on it, in the order of reading."""

    backdrop: Backdrop
    things: tuple[Thing, ...]

    def __str__(self) -> str:
        return ", ".join([str(self.backdrop), *map(str, self.things)])

    def to_json(self) -> str:
        """All of it, for `from_json`."""
        return json.dumps({"backdrop": asdict(self.backdrop), "things": [asdict(t) for t in self.things]})

    @classmethod
    def from_json(cls, text: str) -> "Scene":
        """The scene that `to_json` wrote."""
        told = json.loads(text)
        told["backdrop"]["box"] = tuple(told["backdrop"]["box"])
        return scene(Backdrop(**told["backdrop"]), (Thing(**thing) for thing in told["things"]))

    @property
    def unseen(self) -> bool:
        """Whether a thing looks like none in training."""
        return any((thing.form, thing.colour, thing.surface) in UNSEEN for thing in self.things)

    @property
    def valid(self) -> bool:
        """Whether all things are in the picture, and apart, and none looks like another one."""
        pairs = list(itertools.combinations(self.things, 2))
        return all(map(inside, self.things)) and all(
            apart(one, other) and one.look != other.look and one.place != other.place for one, other in pairs
        )

    def changed(self, old: Thing, **now: object) -> "Scene":
        """The same with one thing otherwise."""
        rest = (thing for thing in self.things if thing != old)
        return scene(self.backdrop, (*rest, replace(old, **now)))  # pyright: ignore - fields of Thing


def scene(backdrop: Backdrop, things: Iterable[Thing]) -> Scene:
    """A scene with its things in the order of reading: by their places, row by row."""
    return Scene(backdrop, tuple(sorted(things, key=lambda thing: list(PLACES).index(thing.place))))


def split_of(words: str) -> str:
    """The split that a scene of these words belongs to."""
    return "test" if zlib.crc32(words.encode()) % 5 == 0 else "train"


def draw_scene(draw: Random, split: str, *, most: int = 4, named: bool = False) -> Scene:
    """A scene of the split, with one to `most` things; `named`: each in the middle of its place."""
    count = draw.choices((1, 2, 3, 4)[:most], (2, 3, 3, 2)[:most])[0]
    while True:
        places = draw.sample(list(PLACES), count) if named else [None] * count
        things = tuple(draw_look(draw, place) for place in places)
        made = scene(Backdrop(pattern="flat", colour="grey"), things)
        if not made.valid or (split == "train" and made.unseen):
            continue
        made = Scene(draw_backdrop(draw, split, things), made.things)
        if split_of(str(made)) == split:
            return made


def draw_look(draw: Random, place: str | None = None) -> Thing:
    """Some thing, in the middle of a place, or anywhere."""
    size = draw.choice(list(SIZES))
    first = SIZES[size] // STEP + 1
    anywhere = range(first * STEP, UNIT - first * STEP + 1, STEP)
    x, y = PLACES[place] if place else (draw.choice(anywhere), draw.choice(anywhere))
    return Thing(
        form=draw.choice(FORMS), size=size, colour=draw.choice(list(COLOURS)), surface=draw.choice(SURFACES),
        x=x, y=y,
    )  # fmt: skip


def draw_backdrop(draw: Random, split: str, things: tuple[Thing, ...]) -> Backdrop:
    """A backdrop on which these things can be seen."""
    photo = draw.random() < PHOTO
    while True:
        found = Backdrop(pattern=draw.choice(PATTERNS), colour=draw.choice(list(GROUNDS)))
        if photo:
            name = draw.choice(photos.SPLITS[split])
            width, height = photos.photo(name).size
            side = round(min(width, height) * draw.uniform(0.4, 1.0))
            left, top = draw.randint(0, width - side), draw.randint(0, height - side)
            found = Backdrop(pattern="photo", photo=name, box=(left, top, left + side, top + side))
        if all(shows(thing, found) for thing in things):
            return found
        photo = photo and draw.random() < 0.9


def render(scene: Scene, side: int) -> Image.Image:
    """The scene as a picture of `side` pixels."""
    image = ground(scene.backdrop, side).copy()
    for thing in scene.things:
        draw_thing(image, thing)
    return image


@lru_cache(maxsize=64)
def ground(backdrop: Backdrop, side: int) -> Image.Image:
    """A backdrop alone."""
    if backdrop.photo:
        piece = photos.photo(backdrop.photo)
        piece = piece.resize((side, side), Image.Resampling.BICUBIC, box=backdrop.box, reducing_gap=2.0)
        middle = Image.new("RGB", piece.size, tuple(int(value) for value in ImageStat.Stat(piece).mean))
        return Image.blend(middle, piece, FADED)
    colour = np.array(GROUNDS[backdrop.colour], np.float32)
    y, x = np.mgrid[:side, :side]
    if backdrop.pattern == "graded":
        light = 1.1 - 0.55 * y / (side - 1)
    elif backdrop.pattern == "checked":
        light = np.where((x * 8 // side + y * 8 // side) % 2 == 0, 1.0, 0.82)
    else:
        light = np.ones((side, side))
    return Image.fromarray((colour * light[..., None]).clip(0, 255).round().astype(np.uint8))


def names(scene: Scene, thing: Thing) -> tuple[list[str], list[str]]:
    """Names that fit this thing and no other in the scene: by what it looks like, which is read off it; by
    where it is or how it compares, which takes a look at the others."""
    others = [other for other in scene.things if other != thing]
    looks = list(_looks(thing, others))
    compared = [f"the shape at the {thing.place}"]
    if not others:
        return looks, compared
    if all(other.size != thing.size for other in others):
        compared.append("the smallest shape" if thing.size == "small" else "the largest shape")
    if thing.surface != "plain" and all(other.surface == "plain" for other in others):
        compared.append("the only shape that is not plain")
    for name, (across, down) in FARTHEST.items():
        reach = across * thing.x + down * thing.y
        if all(reach >= across * other.x + down * other.y + CLEARLY for other in others):
            compared.append(f"the {name} shape")
    if len(others) == 1 and others[0].form != thing.form:
        compared.append(f"the shape that is no {others[0].form}")
    return looks, compared


def _looks(thing: Thing, others: list[Thing]) -> Iterator[str]:
    """Names by what it looks like that fit none of the others."""
    for count in range(4):
        for parts in itertools.combinations(("size", "surface", "colour"), count):
            for part in ("form", "shape")[: 1 + bool(count)]:
                told = [*parts, part] if part == "form" else parts
                if any(
                    all(getattr(thing, each) == getattr(other, each) for each in told) for other in others
                ):
                    continue
                if thing.surface != "plain" or "surface" not in parts or count == 3:
                    words = [getattr(thing, each) for each in parts]
                    yield " ".join(["the", *words, thing.form if part == "form" else "shape"])


def shows(thing: Thing, backdrop: Backdrop) -> bool:
    """Whether a thing can be told from what is under it."""
    y, x = (slice(centre - thing.half, centre + thing.half) for centre in (thing.y, thing.x))
    far = np.abs(_levels(backdrop)[y, x] - COLOURS[thing.colour]).sum(-1)
    return bool(np.count_nonzero(far < 3 * 255 * CLEAR) <= 0.2 * far.size)


@lru_cache(maxsize=64)
def _levels(backdrop: Backdrop) -> Int[ndarray, "y x 3"]:
    return np.asarray(ground(backdrop, UNIT), np.int32)
