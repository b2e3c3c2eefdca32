"""Masks, orders, layouts, pictures in instructions and marked subjects: what is said of them is what is
there."""

import numpy as np
import pytest

from mgie.data.images import decode, decode_mask
from mgie.data.validation import check
from mgie.toy import photos
from mgie.toy.controls import SUBJECTS, subject_photos
from mgie.toy.judge import judge
from mgie.toy.pairs import ASKED_FOR, KINDS, MASKED, ToyPairs
from mgie.toy.spoil import spoiled
from mgie.toy.things import MARKS, tile
from mgie.toy.world import Scene, render
from mgie.types import EditPair

COUNT = 30


def drawn(kind: str) -> list[EditPair]:
    return list(ToyPairs(COUNT, seed=4, split="test", kinds=[kind]))


def after(pair: EditPair) -> Scene:
    return Scene.from_json(pair.meta["after"])


@pytest.mark.parametrize("kind", ASKED_FOR)
def test_they_are_sound_pairs_and_are_judged(kind):
    for pair in drawn(kind):
        assert check(pair) == (64, 64) and pair.task == kind == pair.kind
        assert judge(pair, decode(pair.target, name="")).right
        assert not [what for what, picture in spoiled(pair) if judge(pair, picture).right]
    assert kind not in KINDS, "they come only when asked for by name"


@pytest.mark.parametrize("kind", [MASKED, "inside"])
def test_nothing_changes_outside_of_the_mask(kind):
    sizes = set()
    for pair in drawn(kind):
        assert pair.source and pair.mask
        inside = np.asarray(decode_mask(pair.mask, name="")) > 127
        before, target = (np.asarray(decode(each, name="")) for each in (pair.source, pair.target))
        assert (before == target)[~inside].all() and (before != target)[inside].any()
        sizes.add(round(float(inside.mean()), 2))
    assert len(sizes) > 1 and (kind == "inside" or 0.15 <= min(sizes) <= max(sizes) <= 0.6)


def test_a_photograph_edited_everywhere_or_not_at_all_is_wrong():
    for pair in drawn(MASKED):
        source = decode(pair.source or b"", name="")
        assert not judge(pair, photos.apply(pair.meta["op"], source)).right
        assert not judge(pair, source).right


def test_orders_are_carried_out_in_their_boxes():
    for pair in drawn("orders"):
        assert 2 <= len(pair.regions) <= 3 and len({region.phrase for region in pair.regions}) > 1
        allowed = np.zeros((64, 64), bool)
        for region in pair.regions:
            left, top, right, bottom = (round(64 * edge) for edge in region.box or ())
            allowed[top:bottom, left:right] = True
        assert pair.source
        before, target = (np.asarray(decode(each, name="")) for each in (pair.source, pair.target))
        assert (before == target)[~allowed].all()
        assert all(word not in pair.instruction for word in ("circle", "red", "remove"))


def test_boxes_are_around_what_their_phrases_say_and_all_that_changes():
    for pair in drawn("layout"):
        things = {thing.box: thing for thing in after(pair).things}
        assert 1 < len(pair.regions) < 5
        for region in pair.regions:
            assert region.box is not None and region.phrase == " ".join(things[region.box].look)
        before = set(Scene.from_json(pair.meta["before"]).things)
        changed = {thing.box for thing in after(pair).things if thing not in before}
        assert changed == {region.box for region in pair.regions}
        assert not any(word in pair.instruction for thing in things.values() for word in thing.look)


def test_what_an_instruction_shows_is_what_comes_about():
    for pair in drawn("pictures"):
        assert pair.instruction.count("<image>") == len(pair.pictures) == 1
        (new,) = set(after(pair).things) - set(Scene.from_json(pair.meta["before"]).things)
        shown = np.asarray(decode(pair.pictures[0], name=""), np.float32) / 255
        colour = np.array(tile(new.form, "small", new.colour, "plain", 64).convert("RGB"))[7, 7] / 255
        if "surface" not in pair.instruction:
            assert (np.abs(shown - colour).max(-1) < 0.02).sum() > 15, pair.instruction


def test_subjects_have_marks_that_no_word_tells():
    for pair in drawn("subjects"):
        assert len(pair.subjects) == 2 and pair.source is None
        marks = {(thing.colour, thing.form): thing.mark for thing in after(pair).things}
        for name in pair.subjects:
            subject = SUBJECTS[name]
            assert marks[subject.colour, subject.form] == subject.mark and name in pair.instruction
            assert subject.mark not in pair.instruction


def test_an_unmarked_thing_and_another_s_mark_are_no_subject():
    pair = drawn("subjects")[0]
    for mark in ("", *MARKS):
        thing = after(pair).things[0]
        told = {name: getattr(thing, name) for name in ("form", "size", "colour", "surface", "x", "y")}
        if mark != thing.mark:
            wrong = after(pair).changed(thing, **told, mark=mark)
            assert not judge(pair, render(wrong, 64)).right


def test_pictures_to_learn_a_subject_from():
    for name in SUBJECTS:
        found = subject_photos(name, 4, seed=1, side=64)
        assert len(found) == 4
        for each in found:
            inside = np.asarray(each.image)[np.asarray(each.mask) == 255]
            assert inside.std(0).max() > 30  # the mark
        assert found[0].image.tobytes() != found[1].image.tobytes()
