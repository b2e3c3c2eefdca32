"""Things of the toy world: what there is to see, and how one thing is drawn.

    Thing(form="star", size="large", colour="red", surface="striped", x=32, y=12)

Lengths are 64ths of a picture's side, so that a thing lies on whole pixels at 64 px and at any multiple. A
thing is drawn on a transparent square of its own; where it lies only moves that square.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter

UNIT = 64
"""Lengths in one picture's side."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (30, 150, 50),
    "blue": (35, 70, 225),
    "yellow": (250, 220, 30),
    "purple": (145, 35, 165),
    "white": (252, 252, 252),
    "black": (15, 15, 15),
}
SIZES: dict[str, int] = {"small": 7, "large": 11}
"""Name -> half the side of a thing's square, in 64ths."""
SURFACES = ("plain", "striped", "dotted")
PERIOD = 6
"""From one stripe or dot to the next, in 64ths."""
RIM = 0.9
"""Width of the plain rim around stripes and dots, in 64ths: it keeps the form to be seen."""
STEP = 8
"""Middles of things lie so far apart at least, in 64ths: a cell of the small autoencoder's latents."""
PLACES: dict[str, tuple[int, int]] = {
    f"{row} {column}".strip() or "centre": (x, y)
    for row, y in (("top", 16), ("", 32), ("bottom", 48))
    for column, x in (("left", 16), ("", 32), ("right", 48))
}
"""Name of each of nine places -> its middle (x, y), in 64ths."""
MARKS: dict[str, tuple[str, float, float, float, float]] = {
    "core": ("yellow", 0.33, 0.33, 0.67, 0.67),
    "band": ("white", 0.0, 0.38, 1.0, 0.62),
    "foot": ("red", 0.0, 0.72, 1.0, 1.0),
}
"""Name -> its colour, and the part of a thing's square that it covers: left, top, right, bottom."""
FINE = 8
"""Lengths are drawn so many times finer than a 64th, and averaged."""

Pen = ImageDraw.ImageDraw


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing, and where its middle is."""

    form: str
    size: str
    colour: str
    surface: str
    x: int
    y: int
    mark: str = ""
    """What no word describes: one of MARKS, or nothing."""

    @property
    def half(self) -> int:
        """Half the side of its square, in 64ths."""
        return SIZES[self.size]

    @property
    def place(self) -> str:
        """In which of the nine places its middle is: the outer ones reach 20 64ths into the picture."""
        across, down = (int(middle > 20) + int(middle >= 44) for middle in (self.x, self.y))
        return list(PLACES)[3 * down + across]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of its square, as parts of the picture's side."""
        edges = (self.x - self.half, self.y - self.half, self.x + self.half, self.y + self.half)
        left, top, right, bottom = (edge / UNIT for edge in edges)
        return left, top, right, bottom

    @property
    def look(self) -> tuple[str, str, str, str]:
        """All of it that words tell, but where it is."""
        return self.size, self.surface, self.colour, self.form

    def __str__(self) -> str:
        return f"{' '.join(self.look)} at the {self.place}"


def apart(one: Thing, other: Thing, gap: int = 1) -> bool:
    """Whether so much lies between the squares of two things, in 64ths."""
    reach = one.half + other.half + gap
    return abs(one.x - other.x) >= reach or abs(one.y - other.y) >= reach


def inside(thing: Thing) -> bool:
    """Whether all of a thing is in the picture."""
    return all(thing.half < centre < UNIT - thing.half for centre in (thing.x, thing.y))


@lru_cache(maxsize=1024)
def tile(form: str, size: str, colour: str, surface: str, side: int, mark: str = "") -> Image.Image:
    """A thing alone, in RGBA on its own square, for pictures of `side` pixels."""
    whole, within = _outline(form, size, side)
    marks, edge = Image.new("L", whole.size), round(2 * SIZES[size] * side / UNIT)
    if surface != "plain":
        _SURFACES[surface](ImageDraw.Draw(marks), PERIOD * whole.width / (2 * SIZES[size]))
    covers, marked = (
        each.resize((edge, edge), Image.Resampling.BOX) for each in (whole, ImageChops.darker(marks, within))
    )
    image = Image.new("RGBA", (edge, edge), COLOURS[colour])
    image.paste(shade(colour), (0, 0), marked)
    if mark:
        x, y, right, bottom = (round(part * edge) for part in MARKS[mark][1:])
        image.paste(COLOURS[MARKS[mark][0]], (x, y, right, bottom))
    image.putalpha(covers)
    return image


@lru_cache(maxsize=64)
def _outline(form: str, size: str, side: int) -> tuple[Image.Image, Image.Image]:
    """A form, drawn finer than it will be; and without its rim."""
    fine = max(FINE * UNIT // side, 2) * side // UNIT
    edge = 2 * SIZES[size] * fine
    whole = Image.new("L", (edge, edge))
    _FORMS[form](ImageDraw.Draw(whole), edge / 2)
    return whole, whole.filter(ImageFilter.MinFilter(2 * round(RIM * fine) + 1))


def shade(colour: str) -> tuple[int, int, int]:
    """What stripes and dots have: much lighter than the colour, or of a light colour darker."""
    red, green, blue = COLOURS[colour]
    if 0.3 * red + 0.59 * green + 0.11 * blue > 150:
        return red * 2 // 5, green * 2 // 5, blue * 2 // 5
    return tuple(part + (255 - part) * 7 // 10 for part in (red, green, blue))  # pyright: ignore - three


def mask(thing: Thing, side: int) -> Image.Image:
    """How much of each pixel the thing covers, 0 to 255, in a picture of `side` pixels."""
    image = Image.new("L", (side, side))
    image.paste(_tile_of(thing, side).getchannel("A"), corner(thing, side))
    return image


def draw_thing(image: Image.Image, thing: Thing) -> None:
    """Draw it into a square picture."""
    drawn = _tile_of(thing, image.width)
    image.paste(drawn, corner(thing, image.width), drawn)


def corner(thing: Thing, side: int) -> tuple[int, int]:
    """The first pixel of its square."""
    x, y = (round((centre - thing.half) * side / UNIT) for centre in (thing.x, thing.y))
    return x, y


def _tile_of(thing: Thing, side: int) -> Image.Image:
    return tile(thing.form, thing.size, thing.colour, thing.surface, side, thing.mark)


def _circle(pen: Pen, r: float) -> None:
    pen.ellipse((0, 0, 2 * r - 1, 2 * r - 1), fill=255)


def _square(pen: Pen, r: float) -> None:
    pen.rectangle((0.1 * r, 0.1 * r, 1.9 * r - 1, 1.9 * r - 1), fill=255)


def _triangle(pen: Pen, r: float) -> None:
    pen.polygon(((0, 2 * r), (2 * r, 2 * r), (r, 0)), fill=255)


def _star(pen: Pen, r: float) -> None:
    turns = [math.pi * step / 5 for step in range(10)]
    reach = [(1.05, 0.46)[step % 2] * r for step in range(10)]
    middle = 1.06 * r
    pen.polygon(
        [(r + d * math.sin(turn), middle - d * math.cos(turn)) for turn, d in zip(turns, reach)], fill=255
    )


def _cross(pen: Pen, r: float) -> None:
    pen.rectangle((0.64 * r, 0, 1.36 * r - 1, 2 * r), fill=255)
    pen.rectangle((0, 0.64 * r, 2 * r, 1.36 * r - 1), fill=255)


def _heart(pen: Pen, r: float) -> None:
    pen.ellipse((0, 0.05 * r, 1.06 * r, 1.11 * r), fill=255)
    pen.ellipse((0.94 * r, 0.05 * r, 2 * r - 1, 1.11 * r), fill=255)
    pen.polygon(((0.1 * r, 0.85 * r), (r, 0.5 * r), (1.9 * r, 0.85 * r), (r, 2 * r)), fill=255)


_FORMS = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}
FORMS = tuple(_FORMS)


def _stripes(pen: Pen, step: float) -> None:
    for number in range(UNIT):
        pen.rectangle((0, number * step, UNIT * step, (number + 0.5) * step - 1), fill=255)


def _dots(pen: Pen, step: float) -> None:
    for row in range(8):
        for column in range(8):
            left, top = (column + 0.2) * step, (row + 0.2) * step
            pen.ellipse((left, top, left + 0.62 * step, top + 0.62 * step), fill=255)


_SURFACES = {"striped": _stripes, "dotted": _dots}
