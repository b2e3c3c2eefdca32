"""Judging what pictures show: who sees is right, and whoever goes by less is not."""

import pytest

from mgie.data.images import decode
from mgie.errors import ConfigError
from mgie.toy.shown import held_out, other_words, shares

COUNT = 6


@pytest.mark.parametrize("kind", ["pictures", "shown"])
def test_the_controls_change_what_they_say_and_nothing_else(kind):
    asked = []

    def paint(pair, pictures, number):
        asked.append((number, pair, [picture.tobytes() for picture in pictures]))
        return decode(pair.target, name=pair.key)  # what is right, whatever is told

    found = shares(paint, kind=kind, count=COUNT, seed=3)
    assert found == {"right": 1.0, "another": 1.0, "blank": 1.0, "words": 1.0}
    pairs = held_out(kind, count=COUNT, seed=3)
    for number, pair in enumerate(pairs):
        own = [decode(each, name="own").tobytes() for each in pair.pictures]
        told = {
            name: each[1:] for name, each in zip(found, (a for a in asked if a[0] == number), strict=True)
        }
        assert told["right"] == (pair, own)
        assert told["another"][0] == told["blank"][0] == pair
        assert len({tuple(told[name][1]) for name in ("right", "another", "blank")}) == 3
        words, shown = told["words"]
        assert shown == own and words.source == pair.source
        assert words.instruction != pair.instruction
        assert words.instruction.count("<image>") == len(pair.pictures)


def test_other_words_ask_for_another_kind_of_edit():
    pairs = held_out("pictures", count=24, seed=1)
    kinds = {pair.instruction: pair.meta["edit"] for pair in pairs}
    for number, pair in enumerate(pairs):
        assert kinds[other_words(pairs, number).instruction] != pair.meta["edit"]


@pytest.mark.parametrize("count", [0, -1])
def test_nothing_is_not_judged(count):
    with pytest.raises(ConfigError, match=rf"count={count} held-out pairs .* expected at least 1"):
        held_out("pictures", count=count, seed=1)


def test_more_than_there_are_is_said(monkeypatch):
    monkeypatch.setattr("mgie.toy.shown.MOST", 12)
    few = sum(bool(pair.meta.get("unseen")) for pair in held_out("pictures", count=12, seed=1))
    assert 0 < few < 12 and len(held_out("pictures", count=few, seed=1, unseen=True)) == few
    with pytest.raises(ConfigError, match=rf"never trained of toy:pictures .* expected 1 to {few}\."):
        held_out("pictures", count=few + 1, seed=1, unseen=True)
