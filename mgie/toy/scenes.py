"""The toy world's scenes: what is drawn, what an edit changes, how it is said.

    from mgie.toy.judge import judge
    from mgie.toy.scenes import toy_pairs
    pair = next(toy_pairs(1, seed=7, split="test"))
    judge(pair, edited)          # Verdict(right=True, why="...")

A scene is a flat background with two or three shapes in the four corners of a 2 x 2 grid. Corners, sizes and
colours are fixed, so the words and the picture before the edit determine the picture after it to the pixel.
Every reference ("the red circle", "the smallest shape", "the shape on the left") fits exactly one shape of
its scene. A scene belongs to one split only. The photographs are in photos.py, the judge in judge.py.
"""

import io
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw

from mgie.errors import ConfigError
from mgie.toy import photos
from mgie.types import EditPair

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (30, 150, 50),
    "blue": (35, 70, 225),
    "yellow": (250, 220, 30),
    "purple": (145, 35, 165),
    "white": (252, 252, 252),
    "black": (15, 15, 15),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (140, 140, 140),
    "pink": (255, 165, 190),
    "sky": (135, 200, 250),
    "lime": (170, 245, 150),
    "brown": (130, 85, 45),
}
FORMS = ("circle", "square", "triangle")
SIZES: dict[str, float] = {"small": 0.115, "large": 0.2}
"""Name -> half the width, as a part of the picture's width."""
CORNERS: dict[str, tuple[float, float]] = {
    "top left": (0.25, 0.25),
    "top right": (0.75, 0.25),
    "bottom left": (0.25, 0.75),
    "bottom right": (0.75, 0.75),
}
"""Name -> centre (x, y), as a part of the picture's width."""

SCENE_KINDS: dict[str, float] = {"recolour": 0.3, "remove": 0.25, "background": 0.2, "add": 0.15, "swap": 0.1}
SCENES = 0.6
"""Part of the pairs that are scenes; the others are photographs, all edits alike."""
KINDS: dict[str, float] = {kind: SCENES * part for kind, part in SCENE_KINDS.items()} | {
    op: (1 - SCENES) / len(photos.OPS) for op in photos.OPS
}
"""Every kind of edit -> its part of the pairs."""

ASKED: dict[str, tuple[str, ...]] = {
    "recolour": (
        "make {it} {new}",
        "turn {it} {new}",
        "paint {it} {new}",
        "change {it} to {new}",
        "recolour {it} to {new}",
        "change the colour of {it} to {new}",
    ),
    "remove": ("remove {it}", "delete {it}", "erase {it}", "take {it} away", "make {it} disappear"),
    "background": (
        "make the background {new}",
        "turn the background {new}",
        "paint the background {new}",
        "change the background to {new}",
        "change the colour of the background to {new}",
        "use a {new} background",
    ),
    "add": (
        "add a {it} at the {corner}",
        "put a {it} at the {corner}",
        "draw a {it} at the {corner}",
        "paint a {it} at the {corner}",
        "make a {it} appear at the {corner}",
    ),
    "add empty": (
        "add a {it} in the empty corner",
        "put a {it} in the empty corner",
        "draw a {it} in the empty corner",
    ),
    "swap": (
        "swap the colours of {it} and {other}",
        "exchange the colours of {it} and {other}",
        "make {it} and {other} swap their colours",
        "make {it} and {other} exchange colours",
        "let {it} and {other} swap colours",
    ),
    "swap two": (
        "swap the two colours",
        "exchange the two colours",
        "swap the colours of the two shapes",
        "exchange the colours of the two shapes",
        "make the two shapes swap colours",
    ),
}
"""Kind of edit -> the ways to ask for it."""

DESCRIBE = "describe the picture"
"""What a small language model is asked while it learns to see; the answer is the scene in words."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape of a scene."""

    size: str
    colour: str
    form: str
    corner: str

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.form} at the {self.corner}"


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and the shapes on it, one in a corner at most."""

    background: str
    shapes: tuple[Shape, ...]

    def __str__(self) -> str:
        return ", ".join([f"{self.background} background", *map(str, self.shapes)])


@dataclass(frozen=True, slots=True)
class Edited:
    """A scene before and after an edit, with the words for it."""

    before: Scene
    after: Scene
    asked: str
    said: str
    edit: str
    """The edit without its object: two edits with different ones cannot be the same request."""


def toy_pairs(
    count: int, *, seed: int, split: str = "train", size: int = 64, kinds: Sequence[str] | None = None
) -> Iterator[EditPair]:
    """Yield `count` pairs of a split.

    The n-th one depends on seed, split, n, size and the choice of kinds, not on `count`. Photographs come out
    of the packages scikit-image and scikit-learn (the extra `toy`).
    """
    if split not in photos.SPLITS:
        raise ConfigError(
            f"The toy world has no split '{split}'; expected one of {', '.join(photos.SPLITS)}."
        )
    if size < 16:
        raise ConfigError(f"A toy picture of {size} pixels is too small to show its shapes; use 16 or more.")
    unknown = [kind for kind in kinds or () if kind not in KINDS]
    if unknown or (kinds is not None and not kinds):
        raise ConfigError(
            f"The toy world has no kind of edit {unknown}; expected some of {', '.join(KINDS)}."
        )
    names = list(kinds or KINDS)
    weights = [KINDS[kind] for kind in names]
    for index in range(count):
        draw = Random(f"{seed}/{split}/{index}")
        kind = draw.choices(names, weights)[0]
        if kind in SCENE_KINDS:
            edited = scene_edit(draw, split, kind)
            before, after = render(edited.before, size), render(edited.after, size)
            asked, said = edited.asked, edited.said
            facts = {
                "world": "scene",
                "edit": edited.edit,
                "before": str(edited.before),
                "after": str(edited.after),
            }
        else:
            before, after, asked, said, facts = photos.photo_edit(draw, split, kind, size)
        yield EditPair(
            key=f"toy/{split}/{seed}/{index:06d}",
            instruction=asked,
            expressive=said,
            source=_png(before),
            target=_png(after),
            kind=kind,
            meta=facts,
        )


def corpus(count: int = 20_000) -> Iterator[str]:
    """Sentences of the toy world, for training a tokenizer: asked, said, described. No pictures are made."""
    for op, wordings in photos.ASKED.items():
        yield from wordings
        for light in photos.LIGHTS:
            for name in photos.TONES:
                yield photos.SAID[op].format(before=f"{light} {name}", after=f"{light} {name}")
    for index in range(count // 2):
        draw = Random(f"corpus/{index}")
        edited = scene_edit(draw, "train", draw.choices(list(SCENE_KINDS), list(SCENE_KINDS.values()))[0])
        yield edited.asked
        yield edited.said
        if index % 4 == 0:
            yield DESCRIBE
            yield str(edited.before)


def scene_edit(draw: Random, split: str, kind: str) -> Edited:
    """A scene of the split, an edit of that kind, and the words for it."""
    while True:
        before = _scene(draw)
        if kind == "swap" and len({shape.colour for shape in before.shapes}) == 1:
            continue
        if split == ("test" if zlib.crc32(str(before).encode()) % 5 == 0 else "train"):
            return _EDITS[kind](draw, before)


def references(scene: Scene, shape: Shape) -> tuple[list[str], list[str]]:
    """Names of this shape and of no other in the scene: by what it is; by where it is or how it compares."""
    looks = [
        f"the {shape.form}",
        f"the {shape.colour} shape",
        f"the {shape.colour} {shape.form}",
        f"the {shape.size} {shape.form}",
        f"the {shape.size} {shape.colour} {shape.form}",
    ]
    fits = Counter(name for other in scene.shapes for name in _names(other))
    named = [name for name in looks if fits[name] == 1]
    compared = [f"the shape at the {shape.corner}"]
    superlative = {"small": "smallest", "large": "largest"}[shape.size]
    if len(scene.shapes) > 1 and sum(other.size == shape.size for other in scene.shapes) == 1:
        compared += [f"the {superlative} shape", f"the {superlative} one"]
    height, width = shape.corner.split()
    if sum(other.corner.split()[0] == height for other in scene.shapes) == 1:
        compared.append(f"the {height} shape")
    if sum(other.corner.split()[1] == width for other in scene.shapes) == 1:
        compared.append(f"the shape on the {width}")
    return named, compared


def render(scene: Scene, size: int) -> Image.Image:
    """The scene as a picture of `size` pixels, edges smoothed."""
    image = Image.new("RGB", (size, size), BACKGROUNDS[scene.background])
    for shape in scene.shapes:
        image.paste(COLOURS[shape.colour], (0, 0), _stencil(shape.form, shape.size, shape.corner, size))
    return image


def _names(shape: Shape) -> list[str]:
    sizes, colours, forms = (["", f"{shape.size} "], ["", f"{shape.colour} "], [shape.form, "shape"])
    return [f"the {size}{colour}{form}" for size in sizes for colour in colours for form in forms]


@lru_cache(maxsize=256)
def _stencil(form: str, size: str, corner: str, side: int) -> Image.Image:
    """Which part of each pixel the shape covers."""
    fine = 8 if side <= 128 else 4
    whole = side * fine
    (x, y), half = CORNERS[corner], SIZES[size]
    left, top, right, bottom = (
        (x - half) * whole,
        (y - half) * whole,
        (x + half) * whole,
        (y + half) * whole,
    )
    mask = Image.new("L", (whole, whole))
    pen = ImageDraw.Draw(mask)
    if form == "circle":
        pen.ellipse((left, top, right - 1, bottom - 1), fill=255)
    elif form == "square":
        inset = 0.06 * half * whole
        pen.rectangle((left + inset, top + inset, right - inset - 1, bottom - inset - 1), fill=255)
    else:
        pen.polygon(((left, bottom), (right, bottom), (x * whole, top)), fill=255)
    return mask.resize((side, side), Image.Resampling.BOX)


def _scene(draw: Random) -> Scene:
    corners = sorted(draw.sample(list(CORNERS), draw.choice((2, 3))), key=list(CORNERS).index)
    shapes: list[Shape] = []
    while len(shapes) < len(corners):
        shape = Shape(
            draw.choice(list(SIZES)), draw.choice(list(COLOURS)), draw.choice(FORMS), corners[len(shapes)]
        )
        if all(
            (shape.size, shape.colour, shape.form) != (other.size, other.colour, other.form)
            for other in shapes
        ):
            shapes.append(shape)
    return Scene(draw.choice(list(BACKGROUNDS)), tuple(shapes))


def _reference(draw: Random, scene: Scene, shape: Shape) -> str:
    named, compared = references(scene, shape)
    return draw.choice(named if draw.random() < 0.5 else compared)


def _another(draw: Random, names: Sequence[str] | dict, *but: str) -> str:
    return draw.choice([name for name in names if name not in but])


def _recoloured(scene: Scene, colours: dict[str, str]) -> Scene:
    """The scene with other colours in the corners named."""
    shapes = (replace(shape, colour=colours.get(shape.corner, shape.colour)) for shape in scene.shapes)
    return Scene(scene.background, tuple(shapes))


def _recolour(draw: Random, scene: Scene) -> Edited:
    shape = draw.choice(scene.shapes)
    new = _another(draw, COLOURS, shape.colour)
    asked = draw.choice(ASKED["recolour"]).format(it=_reference(draw, scene, shape), new=new)
    said = f"the {shape.size} {shape.form} at the {shape.corner} turns from {shape.colour} to {new}"
    return Edited(scene, _recoloured(scene, {shape.corner: new}), asked, said, f"recolour to {new}")


def _remove(draw: Random, scene: Scene) -> Edited:
    shape = draw.choice(scene.shapes)
    after = Scene(scene.background, tuple(other for other in scene.shapes if other != shape))
    asked = draw.choice(ASKED["remove"]).format(it=_reference(draw, scene, shape))
    return Edited(scene, after, asked, f"the {shape} disappears", "remove")


def _background(draw: Random, scene: Scene) -> Edited:
    new = _another(draw, BACKGROUNDS, scene.background)
    asked = draw.choice(ASKED["background"]).format(new=new)
    said = f"the background turns from {scene.background} to {new}"
    return Edited(scene, Scene(new, scene.shapes), asked, said, f"background to {new}")


def _add(draw: Random, scene: Scene) -> Edited:
    corner = _another(draw, CORNERS, *(shape.corner for shape in scene.shapes))
    shape = Shape(draw.choice(list(SIZES)), draw.choice(list(COLOURS)), draw.choice(FORMS), corner)
    only = len(scene.shapes) == 3 and draw.random() < 0.5
    it = f"{shape.size} {shape.colour} {shape.form}"
    asked = draw.choice(ASKED["add empty" if only else "add"]).format(it=it, corner=corner)
    after = Scene(scene.background, (*scene.shapes, shape))
    return Edited(scene, after, asked, f"a {shape} appears", f"add a {shape.colour} {shape.form}")


def _swap(draw: Random, scene: Scene) -> Edited:
    one, other = draw.sample(scene.shapes, 2)
    while one.colour == other.colour:
        one, other = draw.sample(scene.shapes, 2)
    after = _recoloured(scene, {one.corner: other.colour, other.corner: one.colour})
    if len(scene.shapes) == 2 and draw.random() < 0.6:
        asked = draw.choice(ASKED["swap two"])
        one, other = scene.shapes
    else:
        it, its = _reference(draw, scene, one), _reference(draw, scene, other)
        while len(f"{it} {its}".split()) > 10:
            it, its = _reference(draw, scene, one), _reference(draw, scene, other)
        asked = draw.choice(ASKED["swap"]).format(it=it, other=its)
    turned = [f"the {a.corner} {a.form} turns {b.colour}" for a, b in ((one, other), (other, one))]
    return Edited(scene, after, asked, " and ".join(turned), "swap")


_EDITS = {"recolour": _recolour, "remove": _remove, "background": _background, "add": _add, "swap": _swap}


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
