"""Before, said, after: edits side by side on a sheet, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

TILE = 240
"""Side of a picture on a sheet."""
WORDS = 220
"""Width of the column of words between two pictures."""
ROWS = 24
"""Edits on a sheet; more begin another one."""
GAP, LINE = 12, 17
INK, PALE, GROUND = (20, 20, 20), (110, 110, 110), (240, 240, 240)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One edit as a sheet shows it. Small pictures are enough."""

    before: Image.Image | None
    """None: a new picture."""
    after: Image.Image
    instruction: str
    said: str


def thumbnail(picture: Image.Image) -> Image.Image:
    """What a sheet needs of a picture; the rest need not stay in memory."""
    return ImageOps.contain(picture, (TILE, TILE))


def sheets(edits: Sequence[Seen]) -> list[Image.Image]:
    """One row for each edit: the picture before, what was asked and what was said, the picture after."""
    return [_sheet(edits[start : start + ROWS]) for start in range(0, len(edits), ROWS)]


def _sheet(edits: Sequence[Seen]) -> Image.Image:
    bold, plain = (ImageFont.load_default(size) for size in (14, 13))
    width, height = 2 * TILE + WORDS + 4 * GAP, (TILE + GAP) * len(edits) + GAP
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for row, seen in enumerate(edits):
        top = GAP + row * (TILE + GAP)
        for picture, left in ((seen.before, GAP), (seen.after, TILE + WORDS + 3 * GAP)):
            if picture is not None:
                page.paste(ImageOps.pad(picture, (TILE, TILE), color=GROUND), (left, top))
        lines = [(line, INK, bold) for line in _wrapped(seen.instruction, bold, most=5)]
        lines += [(line, PALE, plain) for line in _wrapped(seen.said or "(nothing)", plain, most=7)]
        for place, (line, colour, font) in enumerate(lines):
            pen.text((TILE + 2 * GAP, top + place * LINE), line, colour, font)
    return page


def _wrapped(text: str, font: Any, *, most: int) -> list[str]:
    """The text in at most so many lines that fit; what is left out shows as three dots."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > WORDS:
            word = word[:-2] + "…"
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= WORDS:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]
