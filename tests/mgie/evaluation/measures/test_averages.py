"""Means over items, and over groups first."""

import random

import pytest

from mgie.evaluation.measures.averages import macro, micro


def test_groups_weigh_alike_and_sums_and_counts_are_kept():
    values, groups = [1.0, 2.0, 6.0, 5.0], ["a", "a", "a", "b"]
    assert micro(values).value == 3.5 and (micro(values).sum, micro(values).count) == (14, 4)
    assert macro(values, groups).value == 4 and macro(values, groups).count == 2
    assert micro([]).value is None and macro([], []).value is None


def test_the_order_of_items_plays_no_part():
    draw = random.Random(3)
    values = [draw.random() * 10 ** draw.randrange(9) for _ in range(500)]
    groups = [str(draw.randrange(7)) for _ in values]
    both = list(zip(values, groups, strict=True))
    draw.shuffle(both)
    mixed, labels = ([each[place] for each in both] for place in (0, 1))
    assert micro(mixed) == micro(values)
    assert macro(mixed, labels).value == pytest.approx(macro(values, groups).value, abs=0)
