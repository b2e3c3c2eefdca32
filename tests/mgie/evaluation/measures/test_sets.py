"""CMMD is a distance of two sets, in float64, of the squares in the middle of pictures."""

import base64

import numpy as np
import pytest
import torch
from benchmark_data import pic
from PIL import Image

from mgie.errors import ConfigError
from mgie.evaluation.measures import sets
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.features import Clip
from mgie.evaluation.measures.sets import check_set_clip, cmmd, set_distance, set_feature


def two_sets(first=5, second=6, width=4):
    draw = np.random.default_rng(0)
    return draw.standard_normal((first, width)), draw.standard_normal((second, width))


def unit(several):
    return several / np.linalg.norm(several, axis=1, keepdims=True)


def test_the_published_program_s_number():
    one, other = two_sets()
    assert cmmd(one, other) == pytest.approx(5.429932573, abs=1e-8)
    assert cmmd(3 * one, other) == pytest.approx(cmmd(other, one), abs=1e-12)  # by directions alone


def test_it_is_the_formula_with_each_picture_beside_itself():
    one, other = map(unit, two_sets(7, 9, 16))
    kernel = lambda a, b: np.mean([[np.exp(-((x - y) @ (x - y)) / 200) for y in b] for x in a])  # noqa: E731
    expected = 1000 * (kernel(one, one) + kernel(other, other) - 2 * kernel(one, other))
    assert cmmd(one, other) == pytest.approx(expected, abs=1e-9)


def test_equal_sets_lie_nowhere_apart_and_how_they_are_cut_plays_no_part(monkeypatch):
    one, other = two_sets(50, 70, 8)
    assert abs(cmmd(one, one[::-1])) < 1e-10
    whole = cmmd(one, other)
    monkeypatch.setattr(sets, "ROWS", 7)
    assert cmmd(one, other) == pytest.approx(whole, abs=1e-10)


def test_sets_that_hardly_differ_are_told_apart():
    """In float32 the means of the kernel would swallow it."""
    one, _ = map(unit, two_sets(20, 1, 768))
    near = one + 1e-6
    assert 0 < cmmd(one, near) < 1e-6
    with_noise = [
        cmmd(one, one + size * np.random.default_rng(1).standard_normal(one.shape)) for size in (1e-5, 2e-5)
    ]
    assert with_noise[1] / with_noise[0] == pytest.approx(4, rel=1e-2)


def test_texts_carry_every_bit():
    one, other = (each.astype(np.float32) for each in two_sets())
    texts = [[base64.b64encode(row.tobytes()).decode() for row in each] for each in (one, other)]
    assert set_distance(*texts) == cmmd(one, other) and set_distance([], texts[0]) is None


def test_clip_sees_the_square_in_the_middle(clip_folder, monkeypatch):
    monkeypatch.setattr(sets, "SIDE", 224)
    eyes = Eyes(clip=Clip(clip_folder))
    check_set_clip(eyes)
    wide = pic(3, 91, 40)
    middle = wide.crop((25, 0, 65, 40)).resize((224, 224), Image.Resampling.BICUBIC)  # (91 - 40) // 2
    assert set_feature(wide, eyes) == set_feature(middle, eyes) != set_feature(wide.transpose(0), eyes)
    assert eyes.clip
    expected = eyes.clip.images([middle])[0]
    found = np.frombuffer(base64.b64decode(set_feature(wide, eyes)), "<f4")
    assert torch.equal(torch.from_numpy(found.copy()), expected)


def test_another_clip_is_another_metric(clip_folder):
    with pytest.raises(ConfigError, match="the one of --clip sees 224: give --clip a download of openai"):
        check_set_clip(Eyes(clip=Clip(clip_folder)))
    with pytest.raises(ConfigError, match="no --clip is given"):
        check_set_clip(Eyes())
