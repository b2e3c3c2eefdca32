"""For tests of suites of controls: pictures with plain things, and finders that see them."""

import numpy as np
from PIL import Image, ImageDraw

from mgie.evaluation.controlled.found import Found
from mgie.models.finders import Detection
from mgie.types import Box

PAINT = {"ball": (220, 30, 30), "cup": (30, 60, 220), "dog": (30, 200, 60)}
"""Each thing is a rectangle of its colour."""


def painted(*things: tuple[str, Box], size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Things on grey."""
    picture = Image.new("RGB", size, (127, 127, 127))
    for thing, (x0, y0, x1, y1) in things:
        sides = (x0 * size[0], y0 * size[1], x1 * size[0] - 1, y1 * size[1] - 1)
        ImageDraw.Draw(picture).rectangle(sides, fill=PAINT[thing])
    return picture


def detect(picture: Image.Image, phrase: str) -> list[Detection]:
    """The things of a phrase's colour: a box around each that touches no other of its kind."""
    colour = np.array(PAINT[phrase.split()[-1]])
    left = (np.abs(np.asarray(picture).astype(int) - colour) < 40).all(-1)
    found = []
    while left.any():
        row, column = np.argwhere(left)[0]
        right, bottom = column, row
        while right + 1 < left.shape[1] and left[row, right + 1]:
            right += 1
        while bottom + 1 < left.shape[0] and left[bottom + 1, column]:
            bottom += 1
        left[row : bottom + 1, column : right + 1] = False
        box = (
            column / picture.width, row / picture.height,
            (right + 1) / picture.width, (bottom + 1) / picture.height,
        )  # fmt: skip
        if (right - column) * (bottom - row) > 8:  # what a filter left at an edge is nothing
            found.append(Detection(box=tuple(map(float, box)), score=0.9 - len(found) / 100))
    return found


def segment(picture: Image.Image, box: Box) -> Image.Image:
    """All of a box."""
    mask = Image.new("L", picture.size)
    x0, y0, x1, y1 = box
    sides = (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)
    ImageDraw.Draw(mask).rectangle(sides, fill=255)
    return mask


FINDERS = Found(detector=detect, segmenter=segment)
