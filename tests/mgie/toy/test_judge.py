"""The judge calls what is right right, and nothing else."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mgie.data.images import decode
from mgie.errors import ConfigError, DataError
from mgie.toy import photos
from mgie.toy.judge import judge, wrong_things
from mgie.toy.pairs import KINDS, ToyPairs
from mgie.toy.spoil import spoiled
from mgie.toy.world import Scene
from mgie.types import EditPair


@pytest.fixture(scope="module")
def pairs() -> list[EditPair]:
    return list(ToyPairs(80, seed=11, split="test"))


def target_of(pair: EditPair) -> Image.Image:
    return decode(pair.target, name=pair.key)


def test_every_target_is_right(pairs):
    for pair in pairs:
        verdict = judge(pair, target_of(pair))
        assert verdict.right, (pair.key, verdict.why)


def test_what_is_spoiled_is_wrong(pairs):
    tried, right = Counter(), Counter()
    for pair in pairs:
        for what, picture in spoiled(pair):
            tried[what] += 1
            right[what] += judge(pair, picture).right
    assert len(tried) == 10 and min(tried.values()) > 30
    assert not +right


def test_things_are_judged_one_by_one():
    for pair in ToyPairs(6, seed=11, split="test", kinds=["layout"]):
        after = Scene.from_json(pair.meta["after"])
        assert wrong_things(pair, target_of(pair)) == dict.fromkeys(after.things, "")
        # All but one thing as they should be.
        spoilt, thing = target_of(pair), after.things[0]
        box = tuple(round(edge * spoilt.width) for edge in thing.box)
        spoilt.paste((128, 128, 128), box)
        wrong = {each for each, said in wrong_things(pair, spoilt).items() if said}
        assert wrong == {thing}


def test_a_right_output_need_not_be_perfect(pairs):
    """Noise, a slight blur, another size and JPEG's losses are no other picture."""
    draw = np.random.default_rng(0)
    right = Counter()
    for pair in pairs[:40]:
        target = target_of(pair)
        noise = np.asarray(target, float) + draw.normal(0, 12, (64, 64, 3))
        file = io.BytesIO()
        target.save(file, "JPEG", quality=90, subsampling=0)
        right["noise"] += judge(pair, Image.fromarray(noise.clip(0, 255).astype(np.uint8))).right
        right["jpeg"] += judge(pair, Image.open(file)).right
        right["blur"] += judge(pair, target.filter(ImageFilter.GaussianBlur(0.5))).right
        right["size"] += judge(pair, target.resize((128, 128), Image.Resampling.LANCZOS)).right
    assert min(right.values()) >= 38, right


def test_a_verdict_says_what_is_there(pairs):
    pair = next(each for each in pairs if each.kind == "remove")
    assert pair.source is not None
    assert "nothing should be" in judge(pair, decode(pair.source, name="")).why
    after = Scene.from_json(next(each for each in pairs if each.kind == "recolour").meta["after"])
    assert after.things
    photo = next(each for each in pairs if each.kind == "darken")
    assert photo.source is not None
    assert "no edit" in judge(photo, decode(photo.source, name="")).why


def test_a_photograph_is_edited_where_it_should_be_and_as_strongly():
    pairs = [pair for pair in ToyPairs(60, seed=2, split="test", kinds=["darken", "invert"])]
    inside = [pair for pair in pairs if "region" in pair.meta]
    assert 5 < len(inside) < 40
    for pair in inside:
        assert pair.source is not None and judge(pair, target_of(pair)).right
        source = np.asarray(decode(pair.source, name=""), np.float32) / 255
        everywhere = photos.EVERY[pair.kind](source)
        assert "outside" in judge(pair, Image.fromarray((everywhere * 255).astype(np.uint8))).why
    for pair in pairs:
        assert pair.source is not None
        source, target = (np.asarray(decode(data, name=""), float) for data in (pair.source, pair.target))
        strong = (source + 1.6 * (target - source)).clip(-1e9, 1e9)
        if strong.min() >= 0 and strong.max() <= 255:
            assert not judge(pair, Image.fromarray(strong.astype(np.uint8))).right


def test_another_world_is_refused(pairs):
    with pytest.raises(DataError, match="its judge cannot tell"):
        judge(replace(pairs[0], meta={}), target_of(pairs[0]))


def test_pairs_are_a_function_of_their_number(pairs):
    again = list(ToyPairs(20, seed=11, split="test"))
    assert again == pairs[:20]
    assert [pair.key for pair in ToyPairs(3, seed=12, split="test")] != [pair.key for pair in again[:3]]
    kinds = Counter(pair.kind for pair in ToyPairs(2000, seed=1))
    assert kinds.keys() == KINDS.keys()
    for kind, part in KINDS.items():
        assert kinds[kind] / 2000 == pytest.approx(part, abs=0.02)


def test_a_kind_a_split_and_a_size_that_are_not_there():
    for asked, sentence in (
        ({"kinds": ["explode"]}, "no kind of edit"),
        ({"split": "dev"}, "no split 'dev'"),
        ({"size": 100}, "multiple"),
        ({"kinds": []}, "no kind"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            ToyPairs(1, seed=0, **asked)
