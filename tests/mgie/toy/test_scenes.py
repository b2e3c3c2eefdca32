"""The toy world keeps its promises: words that fit one thing, edits that a judge tells apart, two splits."""

import io
from collections import Counter
from itertools import combinations, islice
from random import Random

import numpy as np
import pytest
from PIL import Image

from mgie.errors import ConfigError, DataError, DeviceError
from mgie.toy import photos
from mgie.toy import scenes as toy
from mgie.toy.judge import judge
from mgie.toy.scenes import Scene, Shape, corpus, references, render, scene_edit, toy_pairs
from mgie.types import EditPair


def opened(picture: bytes | None) -> Image.Image:
    assert picture is not None
    return Image.open(io.BytesIO(picture)).convert("RGB")


@pytest.fixture(scope="module")
def pairs() -> list[EditPair]:
    return list(toy_pairs(300, seed=11, split="test", size=32))


def shapes_meant(words: str, scene: Scene) -> list[Shape]:
    """Which shapes of the scene a reference fits: a reader apart from the one that writes them."""
    found = list(scene.shapes)
    for word in words.removeprefix("the ").split():
        if word in toy.FORMS:
            found = [shape for shape in found if shape.form == word]
        elif word in toy.COLOURS:
            found = [shape for shape in found if shape.colour == word]
        elif word in toy.SIZES:
            found = [shape for shape in found if shape.size == word]
        elif word in ("smallest", "largest"):
            order = sorted({toy.SIZES[shape.size] for shape in scene.shapes}, reverse=word == "largest")
            found = [shape for shape in found if toy.SIZES[shape.size] == order[0]]
        elif word in ("top", "bottom", "left", "right"):
            found = [shape for shape in found if word in shape.corner]
        else:
            assert word in ("shape", "one", "at", "the", "on"), word
    return found


def test_every_reference_fits_exactly_the_shape_it_is_for():
    for index in range(300):
        scene = scene_edit(Random(index), "train", "remove").before
        for shape in scene.shapes:
            named, compared = references(scene, shape)
            assert named and compared
            for words in named + compared:
                assert shapes_meant(words, scene) == [shape], (words, str(scene))


@pytest.mark.parametrize("kind", ["recolour", "remove"])
def test_the_edit_is_done_to_the_shape_that_the_instruction_means(kind):
    for index in range(300):
        edited = scene_edit(Random(f"{kind}{index}"), "test", kind)
        (old,) = set(edited.before.shapes) - set(edited.after.shapes)
        words = edited.asked[edited.asked.rindex("the ", 0, edited.asked.find("the ") + 4) :]
        if "colour of" in edited.asked:
            words = edited.asked.split(" of ", 1)[1]
        for end in (" to ", " away", " disappear"):
            words = words.split(end)[0]
        if kind == "recolour":
            words = words.removesuffix(f" {edited.edit.split()[-1]}")
        assert shapes_meant(words, edited.before) == [old], (edited.asked, str(edited.before))
        assert all(fact in edited.said for fact in (old.size, old.colour, old.form, old.corner))


def test_a_swap_without_names_has_two_shapes_and_an_empty_corner_is_the_only_one():
    for index in range(300):
        swap, add = (scene_edit(Random(index), "train", kind) for kind in ("swap", "add"))
        if "two" in swap.asked:
            assert len(swap.before.shapes) == 2
        assert sorted(s.colour for s in swap.before.shapes) == sorted(s.colour for s in swap.after.shapes)
        assert swap.before != swap.after
        if "empty corner" in add.asked:
            assert len(add.before.shapes) == 3
        assert len({shape.corner for shape in add.after.shapes}) == len(add.before.shapes) + 1


def test_a_pair_depends_on_its_place_and_not_on_how_many_are_made():
    few, many = list(toy_pairs(5, seed=3, size=32)), list(islice(toy_pairs(10**9, seed=3, size=32), 5))
    assert few == many
    assert [pair.key for pair in few] == [f"toy/train/3/{index:06d}" for index in range(5)]
    assert few[4] != next(toy_pairs(5, seed=4, size=32))


def test_no_scene_and_no_photograph_is_in_both_splits():
    seen = {
        split: [pair.meta for pair in toy_pairs(1500, seed=5, split=split, size=16)]
        for split in photos.SPLITS
    }
    for fact in ("photo", "before"):
        train, test = ({meta[fact] for meta in seen[split] if fact in meta} for split in ("train", "test"))
        assert train and test and not train & test
    assert {meta["photo"] for meta in seen["test"] if "photo" in meta} == {"cat", "coffee", "flower"}


def test_the_target_is_right_and_the_untouched_picture_is_wrong(pairs):
    assert {pair.kind for pair in pairs} == set(toy.KINDS)
    for pair in pairs:
        assert judge(pair, opened(pair.target)).right, pair.key
        assert not judge(pair, opened(pair.source)).right, pair.key


def test_the_right_picture_at_another_size_is_right(pairs):
    big = [
        judge(pair, opened(pair.target).resize((192, 192), Image.Resampling.BICUBIC)).right for pair in pairs
    ]
    assert all(big)


def test_every_other_edit_of_a_photograph_is_wrong(pairs):
    edited = [pair for pair in pairs if pair.meta["world"] == "photo"]
    assert len(edited) > 80
    for pair in edited:
        for op in set(photos.OPS) - {pair.kind}:
            verdict = judge(pair, photos.apply(op, opened(pair.source)))
            assert not verdict.right and f"not like {pair.kind}" in verdict.why, (pair.key, op)


def test_every_other_colour_or_shape_is_wrong():
    for index, kind in enumerate(["recolour", "background", "add", "remove", "swap"] * 30):
        edited = scene_edit(Random(index), "test", kind)
        facts = {"world": "scene"}
        source, target = toy._png(render(edited.before, 32)), toy._png(render(edited.after, 32))
        pair = EditPair(
            key="scene", instruction=edited.asked, source=source, target=target, kind=kind, meta=facts
        )
        wrong = [
            Scene(name, edited.after.shapes) for name in toy.BACKGROUNDS if name != edited.after.background
        ]
        for shape in edited.after.shapes:
            rest = tuple(other for other in edited.after.shapes if other != shape)
            wrong.append(Scene(edited.after.background, rest))
            for colour in toy.COLOURS:
                if colour != shape.colour:
                    other = Shape(shape.size, colour, shape.form, shape.corner)
                    wrong.append(Scene(edited.after.background, (*rest, other)))
        for scene in wrong:
            assert not judge(pair, render(scene, 32)).right, (edited.asked, str(edited.before), str(scene))


def test_a_swap_done_to_one_of_the_two_shapes_is_wrong():
    before = Scene(
        "grey", (Shape("large", "red", "square", "top left"), Shape("small", "blue", "circle", "top right"))
    )
    half = Scene(
        "grey", (Shape("large", "blue", "square", "top left"), Shape("small", "blue", "circle", "top right"))
    )
    after = Scene(
        "grey", (Shape("large", "blue", "square", "top left"), Shape("small", "red", "circle", "top right"))
    )
    source, target = toy._png(render(before, 32)), toy._png(render(after, 32))
    pair = EditPair(key="swap", instruction="", source=source, target=target, meta={"world": "scene"})
    verdict = judge(pair, render(half, 32))
    assert not verdict.right and "top right" in verdict.why


def test_a_shape_that_nobody_asked_for_is_wrong():
    shape, stray = (
        Shape("large", "red", "square", "top left"),
        Shape("small", "black", "circle", "bottom right"),
    )
    before, after, more = Scene("sky", (shape,)), Scene("lime", (shape,)), Scene("lime", (shape, stray))
    source, target = toy._png(render(before, 64)), toy._png(render(after, 64))
    facts = {"world": "scene"}
    for first in (source, target):
        pair = EditPair(key="stray", instruction="", source=first, target=target, meta=facts)
        verdict = judge(pair, render(more, 64))
        assert not verdict.right and verdict.why.startswith("the empty place at the bottom right")


def test_a_blurred_target_is_still_right_and_noise_is_not():
    pairs = list(toy_pairs(60, seed=2, split="test"))
    soft = [opened(pair.target).resize((32, 32), Image.Resampling.BOX).resize((64, 64)) for pair in pairs]
    assert sum(judge(pair, image).right for pair, image in zip(pairs, soft)) >= 0.9 * len(pairs)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert not any(judge(pair, noise).right for pair in pairs)


def test_colours_are_far_apart():
    def far(one: tuple[int, ...], other: tuple[int, ...]) -> float:
        return sum(abs(a - b) for a, b in zip(one, other)) / 765

    shapes, grounds = toy.COLOURS.values(), toy.BACKGROUNDS.values()
    assert min(far(*two) for two in combinations(shapes, 2)) > 0.24
    assert min(far(*two) for two in combinations(grounds, 2)) > 0.18
    assert min(far(shape, ground) for shape in shapes for ground in grounds) > 0.17


def test_the_corpus_holds_every_word_and_the_words_are_few():
    words = {word for sentence in corpus(4000) for word in sentence.replace(",", "").split()}
    assert len(words) < 150
    assert all(word.isalpha() and word.islower() for word in words)
    for split in photos.SPLITS:
        for pair in toy_pairs(400, seed=9, split=split, size=16):
            assert set(f"{pair.instruction} {pair.expressive}".split()) <= words
            assert max(len(pair.instruction.split()), len(pair.expressive.split())) <= 16


def test_each_kind_is_asked_for_in_five_wordings_or_more():
    for kind, wordings in toy.ASKED.items():
        assert len(set(wordings)) >= (3 if kind == "add empty" else 5)
    assert all(len(set(wordings)) >= 5 for wordings in photos.ASKED.values())
    assert set(photos.ASKED) == set(photos.SAID) == set(photos.EVERY)


def test_a_photograph_is_described_by_what_can_be_measured():
    assert photos.tone(Image.new("RGB", (4, 4), (20, 30, 90))) == "dark blue"
    assert photos.tone(Image.new("RGB", (4, 4), (240, 240, 240))) == "bright grey"
    assert photos.tone(Image.new("RGB", (4, 4), (220, 100, 85))) == "soft red"


def test_kinds_can_be_chosen():
    made = list(toy_pairs(20, seed=1, kinds=["swap", "sepia"], size=16))
    assert {pair.kind for pair in made} == {"swap", "sepia"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"split": "dev"}, "no split 'dev'"),
        ({"size": 4}, "too small"),
        ({"kinds": ["blur"]}, "blur"),
        ({"kinds": []}, "expected some of"),
    ],
)
def test_a_wrong_request_is_a_sentence(wrong, says):
    with pytest.raises(ConfigError, match=says):
        next(toy_pairs(1, seed=0, **wrong))


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(photos.PHOTOS, "cat", ("no_such_package", "cat.png"))
    photos.photo.cache_clear()
    with pytest.raises(DeviceError, match=r"pip install 'mgie\[toy\]'"):
        photos.photo("cat")


def test_a_foreign_pair_is_not_judged(pairs):
    foreign = EditPair(key="mine/1", instruction="x", source=pairs[0].source, target=pairs[0].target)
    with pytest.raises(DataError, match="mine/1"):
        judge(foreign, opened(pairs[0].target))


@pytest.mark.parametrize("split", list(photos.SPLITS))
def test_an_edit_of_a_photograph_is_seen_and_is_like_no_other(split):
    for pair in toy_pairs(300, seed=1, split=split, size=32, kinds=list(photos.OPS)):
        far = photos.distances(opened(pair.source), opened(pair.target))
        assert min(far.values()) == far.pop(pair.kind) < 0.01
        assert min(far.values()) > 0.06, (pair.key, pair.kind)


def test_a_kind_that_is_named_twice_comes_twice_as_often():
    pairs = toy_pairs(300, seed=9, size=16, kinds=["recolour", "recolour", "remove"])
    found = Counter(pair.kind for pair in pairs)
    twice = 2 * toy.KINDS["recolour"] / (2 * toy.KINDS["recolour"] + toy.KINDS["remove"])
    assert found.total() == 300 and abs(found["recolour"] / 300 - twice) < 0.06
