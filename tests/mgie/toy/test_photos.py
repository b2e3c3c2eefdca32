"""The toy world's photographs: edits that are told apart, splits, words, packages."""

import numpy as np
import pytest
from PIL import Image

from mgie.data.images import decode
from mgie.errors import DeviceError
from mgie.toy import photos
from mgie.toy.pairs import ToyPairs, corpus


@pytest.mark.parametrize("split", list(photos.SPLITS))
def test_an_edit_is_seen_and_is_like_no_other(split):
    for pair in ToyPairs(100, seed=1, split=split, kinds=list(photos.EVERY)):
        assert pair.source is not None
        source, target = decode(pair.source, name=pair.key), decode(pair.target, name=pair.key)
        inside = np.ones((64, 64), bool)
        if "region" in pair.meta:
            inside = photos.region_mask(pair.meta["region"], 64)
        made = {"copy": source} | {op: photos.apply(op, source) for op in photos.EVERY}
        far = {
            op: float(np.abs(np.subtract(target, each, dtype=float))[inside].mean()) / 255
            for op, each in made.items()
        }
        assert far.pop(pair.kind) < 0.01
        assert min(far.values()) > 0.02, (pair.key, pair.kind, far)


def test_no_photograph_is_in_both_splits():
    assert not set(photos.SPLITS["train"]) & set(photos.SPLITS["test"])
    for split, names in photos.SPLITS.items():
        pairs = ToyPairs(60, seed=5, split=split, kinds=list(photos.EVERY))
        assert {pair.meta["photo"] for pair in pairs} <= set(names)


def test_each_edit_is_asked_for_in_five_wordings_or_more():
    assert all(len(set(wordings)) >= 5 for wordings in photos.ASKED.values())
    assert set(photos.ASKED) == set(photos.SAID) == set(photos.EVERY)


def test_a_photograph_is_described_by_what_can_be_measured():
    assert photos.tone(Image.new("RGB", (4, 4), (20, 30, 90))) == "dark blue"
    assert photos.tone(Image.new("RGB", (4, 4), (240, 240, 240))) == "bright grey"
    assert photos.tone(Image.new("RGB", (4, 4), (220, 100, 85))) == "soft red"


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(photos.PHOTOS, "cat", ("no_such_package", "cat.png"))
    photos.photo.cache_clear()
    with pytest.raises(DeviceError, match=r"pip install 'mgie\[toy\]'"):
        photos.photo("cat")


def test_the_corpus_holds_every_word_and_the_words_are_few():
    words = {word for sentence in corpus(4000) for word in sentence.replace(",", "").split()}
    assert len(words) < 200
    for split in photos.SPLITS:
        for pair in ToyPairs(200, seed=9, split=split):
            assert set(f"{pair.instruction} {pair.expressive}".replace(",", "").split()) <= words
