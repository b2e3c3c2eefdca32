"""A folder of marked subjects, and shares that only who knows them gets."""

import re
from dataclasses import replace

import numpy as np
from PIL import Image

from mgie.personalization.subjects import load_subjects
from mgie.toy.controls import SUBJECTS
from mgie.toy.subjects import exchanged, shares, write_subjects
from mgie.toy.things import PLACES
from mgie.toy.world import Backdrop, Scene, render

TOLD = re.compile(r"(\w+) (\w+) (\w+) at the ((?:top|bottom) (?:left|right)|\w+)")


def test_the_folder_is_a_user_s(tmp_path):
    things = load_subjects(write_subjects(tmp_path / "toys", count=3))
    assert [each.name for each in things] == [*SUBJECTS]
    for each in things:
        assert len(each.photos) == 3 and each.phrase.startswith(each.name)
        for photo in each.photos:
            assert photo.image.size == (64, 64) and photo.mask is not None
            inside = np.asarray(photo.mask) > 127
            assert 100 < inside.sum() < 600


def test_only_who_knows_the_marks_is_right():
    def painted(words: str, *, marks: bool) -> Image.Image:
        things = []
        for name, colour, form, place in TOLD.findall(words.partition(" on a ")[0]):
            known = SUBJECTS[name]
            assert (known.colour, known.form) == (colour, form)
            x, y = PLACES[place]
            things.append(replace(known, x=x, y=y, mark=known.mark if marks else ""))
        pattern, ground, _ = words.rpartition(" on a ")[2].split()
        return render(Scene(Backdrop(pattern=pattern, colour=ground), tuple(things)), 64)

    knowing = shares(lambda words, _: painted(words, marks=True), count=8)
    assert knowing == {"right": 1.0, "exchanged": 0.0}
    assert shares(lambda words, _: painted(words, marks=False), count=4)["right"] == 0.0


def test_things_change_places():
    assert exchanged("a b c", "a", "c") == "c b a"
