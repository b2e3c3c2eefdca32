"""Scenes of the toy world: what is known of them is so, and every name fits one thing."""

import itertools
from random import Random

import numpy as np
import pytest
from PIL import Image

from mgie.toy.things import COLOURS, FORMS, PLACES, SIZES, SURFACES, UNIT, Thing, apart, inside, mask, tile
from mgie.toy.world import UNSEEN, Scene, draw_scene, ground, names, render, scene

COUNT = 150


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(Random(number), "train") for number in range(COUNT)]


def meant(name: str, scene: Scene) -> list[Thing]:
    """Which things a name fits: a reader apart from the one that writes them."""
    found = list(scene.things)
    if name == "the only shape that is not plain":
        return [thing for thing in found if thing.surface != "plain"]
    if name.startswith("the shape that is no "):
        return [thing for thing in found if thing.form != name.split()[-1]]
    name, _, place = name.partition(" at the ")
    if place:
        found = [thing for thing in found if PLACES[place] == PLACES[thing.place]]
    best = {
        "smallest": lambda t: SIZES[t.size], "largest": lambda t: -SIZES[t.size],
        "highest": lambda t: t.y, "lowest": lambda t: -t.y,
        "leftmost": lambda t: t.x, "rightmost": lambda t: -t.x,
    }  # fmt: skip
    for word in name.removeprefix("the ").split():
        if word in best:
            first = min(map(best[word], scene.things))
            found = [thing for thing in found if best[word](thing) == first]
        elif word != "shape":
            assert word in (*COLOURS, *FORMS, *SIZES, *SURFACES), word
            found = [thing for thing in found if word in thing.look]
    return found


def test_every_name_fits_one_thing(scenes):
    for made in scenes:
        for thing in made.things:
            looks, compared = names(made, thing)
            assert looks and compared and len({*looks, *compared}) == len(looks) + len(compared)
            for name in looks + compared:
                assert meant(name, made) == [thing], (name, str(made))


def test_things_are_in_the_picture_apart_and_to_be_seen(scenes):
    assert {len(made.things) for made in scenes} == {1, 2, 3, 4}
    for made in scenes:
        assert all(map(inside, made.things))
        assert all(apart(one, other) for one, other in itertools.combinations(made.things, 2))
        under, seen = (np.asarray(image, int) for image in (ground(made.backdrop, UNIT), render(made, UNIT)))
        for thing in made.things:
            covered = np.asarray(mask(thing, UNIT)) == 255
            assert np.abs(seen - under).mean(-1)[covered].mean() > 30, str(made)


@pytest.mark.parametrize("side", [64, 128, 192])
def test_boxes_and_masks_are_where_things_are(scenes, side):
    for made in scenes[:20]:
        under, seen = (np.asarray(image) for image in (ground(made.backdrop, side), render(made, side)))
        covered = np.zeros((side, side), bool)
        for thing in made.things:
            here = np.asarray(mask(thing, side)) > 0
            left, top, right, bottom = (round(edge * side) for edge in thing.box)
            assert here[top:bottom, left:right].sum() == here.sum() > 0
            covered |= here
        assert (seen[~covered] == under[~covered]).all()
        assert (seen[covered] != under[covered]).any(-1).mean() > 0.9


def test_a_larger_picture_is_the_same_picture(scenes):
    for made in scenes[:20]:
        small, large = render(made, 64), render(made, 128).resize((64, 64), Image.Resampling.BOX)
        assert np.abs(np.asarray(small, int) - np.asarray(large, int)).mean() < 6


def test_looks_can_be_told_apart():
    """No two of them are nearly the same picture."""
    drawn = {}
    for look in itertools.product(FORMS, COLOURS, SURFACES):
        picture = np.asarray(tile(look[0], "small", look[1], look[2], UNIT), np.float32) / 255
        drawn[look] = picture[..., :3] * picture[..., 3:] + 0.5 * (1 - picture[..., 3:])
    for (one, picture), (other, rival) in itertools.combinations(drawn.items(), 2):
        assert np.abs(picture - rival).mean() > 0.01, (one, other)


def test_splits_share_no_scene_and_some_looks_are_never_trained(scenes):
    tested = [draw_scene(Random(number), "test") for number in range(COUNT)]
    assert not {str(made) for made in scenes} & {str(made) for made in tested}
    assert not {made.backdrop.photo for made in scenes} & {made.backdrop.photo for made in tested} - {""}
    assert 8 <= len(UNSEEN) <= 20
    assert not any(made.unseen for made in scenes)
    assert sum(made.unseen for made in tested) > COUNT / 20


def test_a_scene_is_read_as_it_was_written(scenes):
    for made in scenes:
        assert Scene.from_json(made.to_json()) == made
        assert scene(made.backdrop, reversed(made.things)) == made


def test_places_are_told_right():
    for name, (x, y) in PLACES.items():
        thing = Thing(form="star", size="small", colour="red", surface="plain", x=x, y=y)
        assert thing.place == name
        assert ("top" in name, "left" in name) == (y < UNIT / 3, x < UNIT / 3)
    assert str(thing) == "small plain red star at the bottom right"
