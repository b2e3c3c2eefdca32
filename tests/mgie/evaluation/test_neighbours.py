"""Whose words make a pair come out wrong."""

import pytest

from mgie.errors import ConfigError
from mgie.evaluation.pair_suites import neighbours
from mgie.toy.pairs import ToyPairs


def test_the_neighbour_asks_for_something_else():
    pairs = list(ToyPairs(120, seed=11, split="test"))
    others = neighbours(pairs)
    assert all(pairs[other].meta["edit"] != pair.meta["edit"] for pair, other in zip(pairs, others))
    assert sum(other == (index + 1) % len(pairs) for index, other in enumerate(others)) > 0.8 * len(pairs)
    with pytest.raises(ConfigError, match="the same edit"):
        neighbours([pairs[0]] * 3)
