"""Edits of scenes: what is asked means what is done, and what is said tells all of it."""

from random import Random

import pytest

from mgie.toy.edits import KINDS, draw_edit
from mgie.toy.things import PLACES, SURFACES
from mgie.toy.world import PATTERNS, names

COUNT = 60
ONE = {"recolour": "colour", "replace": "form", "surface": "surface", "resize": "size"}
"""Kinds of edits that change one property of one thing."""


def drawn(kind: str, split: str = "train"):
    return [draw_edit(Random(f"{kind}/{number}"), split, kind) for number in range(COUNT)]


@pytest.mark.parametrize("kind", [*ONE, "remove", "move"])
def test_the_thing_that_is_named_changes_and_no_other(kind):
    looked = 0
    for edit in drawn(kind):
        (old,) = set(edit.before.things) - set(edit.after.things)
        looks, compared = names(edit.before, old)
        told = [name for name in looks + compared if name in edit.asked]
        assert told, (edit.asked, str(edit.before))
        looked += max(told, key=len) in compared
        others = [thing for thing in edit.before.things if thing != old]
        assert all(thing in edit.after.things for thing in others)
        assert edit.before.backdrop == edit.after.backdrop
        place = "" if kind == "remove" else old.place
        assert place in edit.said and old.form in edit.said and old.colour in edit.said
        new = set(edit.after.things) - set(edit.before.things)
        if kind == "remove":
            assert not new
        elif kind == "move":
            (new,) = new
            assert (
                new.look == old.look and (new.x, new.y) == PLACES[new.place] and edit.said.endswith(new.place)
            )
        else:
            (new,) = new
            changed = [name for name in ("form", "size", "colour", "surface", "x", "y")
                       if getattr(old, name) != getattr(new, name)]  # fmt: skip
            assert changed == [ONE[kind]]
            assert kind == "resize" or edit.said.endswith(getattr(new, ONE[kind]))
    assert COUNT / 4 < looked < COUNT * 3 / 4, "about half of the edits take a look"


def test_a_new_thing_comes_where_the_words_say():
    ways = set()
    for edit in drawn("add"):
        (new,) = set(edit.after.things) - set(edit.before.things)
        assert edit.said == f"a {new} appears" and (new.x, new.y) == PLACES[new.place]
        wanted = [word for word in new.look if word != "plain"]
        assert all(word in edit.asked for word in wanted)
        if "between" in edit.asked:
            ways.add("between")
            pairs = [(a, b) for a in edit.before.things for b in edit.before.things if a != b]
            middles = [((PLACES[a.place][0] + PLACES[b.place][0]) / 2,
                        (PLACES[a.place][1] + PLACES[b.place][1]) / 2) for a, b in pairs]  # fmt: skip
            assert (new.x, new.y) in middles
        for words, (x, y) in {"to the left of": (16, 0), "to the right of": (-16, 0), "above": (0, 16),
                              "below": (0, -16)}.items():  # fmt: skip
            if words in edit.asked:
                ways.add(words)
                beside = [PLACES[thing.place] for thing in edit.before.things]
                assert (new.x + x, new.y + y) in beside, edit.asked
    assert len(ways) == 5


def test_a_swap_exchanges_places():
    for edit in drawn("swap"):
        moved = set(edit.before.things) - set(edit.after.things)
        assert (len(moved) == 2 and "two" not in edit.asked) or len(edit.before.things) == 2
        one, other = moved
        spots = {thing.look: (thing.x, thing.y) for thing in edit.after.things}
        assert spots[one.look] == (other.x, other.y) and spots[other.look] == (one.x, one.y)


def test_a_new_background_leaves_the_things():
    for edit in drawn("background"):
        assert edit.before.things == edit.after.things
        new = edit.after.backdrop
        assert new.pattern in PATTERNS and new.colour != edit.before.backdrop.colour
        assert f"{new.pattern} {new.colour}" in edit.asked and edit.said.endswith(
            f"{new.pattern} {new.colour}"
        )


def test_two_in_one_change_two_things():
    for edit in drawn("two"):
        assert len(set(edit.before.things) - set(edit.after.things)) == 2
        assert " and " in edit.asked and " and " in edit.said


def test_what_is_painted_from_nothing_is_told_whole():
    for edit in drawn("paint"):
        assert edit.before is None and edit.said == str(edit.after)
        for thing in edit.after.things:
            assert f"a {thing}" in edit.asked and (thing.x, thing.y) == PLACES[thing.place]
        assert str(edit.after.backdrop) in edit.asked


def test_all_that_comes_about_is_a_scene_of_the_split():
    for kind in [*KINDS, "paint"]:
        for number in range(20):
            train, test = (draw_edit(Random(number), split, kind) for split in ("train", "test"))
            assert train.after.valid and test.after.valid and not train.after.unseen


def test_surfaces_are_told_wherever_things_are():
    assert all(any(surface in edit.said for surface in SURFACES) for edit in drawn("resize"))
