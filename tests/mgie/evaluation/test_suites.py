"""Suites are found by name, and their pairs are what was asked for."""

import pytest

from mgie.errors import ConfigError
from mgie.evaluation.measures.metrics import PIXEL_METRICS
from mgie.evaluation.suites import SUITES, Request, find_suite
from mgie.toy.pairs import ToyPairs


def test_a_suite_is_found_by_its_name_and_near_names_are_offered():
    assert find_suite("toy").name == "toy"
    with pytest.raises(ConfigError, match="did you mean toy"):
        find_suite("tou")
    with pytest.raises(ConfigError, match="choose one of them"):
        find_suite("xyzzy")


def test_every_suite_names_metrics_that_exist_and_measures_the_distance():
    for name, suite in SUITES.items():
        assert suite.name == name and suite.about
        assert "l1" in suite.metrics and set(suite.metrics) <= set(PIXEL_METRICS)


def test_the_toy_suite_is_made_from_the_seed_out_of_the_test_split():
    request = Request(count=4, seed=8, size=24)
    assert find_suite("toy").pairs(request) == list(ToyPairs(4, seed=8, split="test", size=64))
