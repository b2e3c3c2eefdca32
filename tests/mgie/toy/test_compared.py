"""Detect-and-Compare tells right pictures of the toy world's subjects from those where they are mixed up."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mgie.evaluation.controlled.detect_and_compare import compare, square_crop
from mgie.toy.controls import SUBJECTS, subject_photos
from mgie.toy.things import PLACES, Thing
from mgie.toy.world import Backdrop, render, scene

SIDE, EDGE = 64, 16
PAIRS = list(itertools.combinations(SUBJECTS, 2))
BACKDROP = Backdrop(pattern="flat", colour="grey")


def embedded(picture: Image.Image, thing: Thing) -> np.ndarray:
    """Of what is in a thing's box, its colours on a grid, less grey."""
    left, top, right, bottom = (edge * SIDE for edge in thing.box)
    crop = square_crop(picture, (left, top, right, bottom)).resize((EDGE, EDGE), Image.Resampling.BOX)
    values = np.asarray(crop, np.float64) / 255 - 0.5
    return values.ravel()


def photos(name: str) -> np.ndarray:
    shown = []
    for photo in subject_photos(name, 4, seed=0, side=SIDE):
        x, y = PLACES[photo.place]
        shown.append(embedded(photo.image, replace(SUBJECTS[name], x=x, y=y)))
    return np.stack(shown)


def score(things: list[Thing], names: tuple[str, str]) -> float:
    """Of a picture with these things, for subjects of these names."""
    placed = [replace(thing, x=x, y=y) for thing, (x, y) in zip(things, list(PLACES.values())[::8])]
    picture = render(scene(BACKDROP, placed), SIDE)
    detections = np.stack([embedded(picture, thing) for thing in placed])
    return compare(detections, [photos(name) for name in names]).score


@pytest.mark.parametrize("names", PAIRS)
def test_a_picture_with_the_subjects_mixed_up_scores_lower(names):
    one, other = (SUBJECTS[name] for name in names)
    right = score([one, other], names)
    assert right == pytest.approx(score([other, one], names), abs=1e-3), "their order does not count"
    mixed = {
        "both the first": [one, one],
        "colours exchanged": [replace(one, colour=other.colour), replace(other, colour=one.colour)],
        "forms exchanged": [replace(one, form=other.form), replace(other, form=one.form)],
        "between the two": [replace(one, colour=other.colour), other],
        "without their marks": [replace(one, mark=""), replace(other, mark="")],
    }
    if one.mark != other.mark:
        mixed["marks exchanged"] = [replace(one, mark=other.mark), replace(other, mark=one.mark)]
    scores = {what: score(things, names) for what, things in mixed.items()}
    assert all(found < right for found in scores.values()), (right, scores)
