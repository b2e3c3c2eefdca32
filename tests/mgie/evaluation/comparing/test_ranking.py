"""Davidson's model: the published program's numbers, what it must do, and what it must not."""

import numpy as np
import pytest

from mgie.errors import DataError
from mgie.evaluation.comparing.ranking import Match, as_rows, davidson, rank

GOLDEN = ("AAT", "BAA", "TTB", "AAA", "ABA", "BAT")
"""Of six prompts who won of (a, b), (a, c), (b, c)."""
PAIRS = (("a", "b"), ("a", "c"), ("b", "c"))
MEANT = {"A": "first", "B": "second", "T": "tie"}
MATCHES = [
    Match(first=one, second=two, outcome=MEANT[said], cluster=str(prompt))
    for prompt, told in enumerate(GOLDEN)
    for (one, two), said in zip(PAIRS, told)
]


def test_the_published_program_s_numbers():
    """GEditBench v2's elo_score.py on these answers: strengths to 1e-4, Elo rounded."""
    found = rank(MATCHES, seed=0, draws=0, penalty="last")
    assert [found[name]["theta"] for name in "abc"] == pytest.approx([0.36623, 0.02481, -0.39104], abs=1e-4)
    assert [round(found[name]["elo"]) for name in "abc"] == [1064, 1004, 932]


def test_names_play_no_part():
    """With the strengths' mean held, and not that of the last name."""
    other = {"a": "z", "b": "m", "c": "b"}
    renamed = [
        Match(first=other[m.first], second=other[m.second], outcome=m.outcome, cluster=m.cluster)
        for m in MATCHES
    ]
    first, second = rank(MATCHES, seed=1, draws=50), rank(renamed, seed=1, draws=50)
    assert list(first) == ["a", "b", "c"] and list(second) == ["z", "m", "b"]
    for name, new in other.items():
        assert first[name]["theta"] == pytest.approx(second[new]["theta"], abs=1e-9)
        assert first[name]["low"] == pytest.approx(second[new]["low"], abs=1e-6)
    swapped = [
        Match(first=m.second, second=m.first, cluster=m.cluster,
              outcome={"first": "second", "second": "first", "tie": "tie"}[m.outcome])
        for m in MATCHES
    ]  # fmt: skip
    assert rank(swapped, seed=1, draws=0)["a"]["theta"] == pytest.approx(first["a"]["theta"])


def test_it_is_the_least_of_its_loss():
    """Against a search that knows no derivatives."""
    from scipy.optimize import minimize

    draw = np.random.default_rng(0)
    tallies = np.zeros((2, 3, 3, 3))
    for one, two in ((0, 1), (0, 2), (1, 2)):
        tallies[:, one, two] = draw.integers(1, 9, (2, 3))
    totals = tallies.sum(axis=(1, 2, 3))

    def loss(where):
        strengths, ties = where[:3], where[3:]
        found = ((strengths - strengths.mean()) ** 2).sum() / 2
        for question in range(2):
            weight = totals.mean() / totals[question]
            for one, two in ((0, 1), (0, 2), (1, 2)):
                chances = np.exp([strengths[one], strengths[two], 0])
                chances[2] = 2 * np.exp(ties[question] + (strengths[one] + strengths[two]) / 2)
                found -= weight * (tallies[question, one, two] * np.log(chances / chances.sum())).sum()
        return found

    best = minimize(loss, np.zeros(5), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12,
                                                                      "maxiter": 20000}).x  # fmt: skip
    assert davidson(tallies) == pytest.approx(best[:3] - best[:3].mean(), abs=1e-5)


@pytest.mark.parametrize("outcome", ["first", "tie"])
def test_what_has_no_end_is_held(outcome):
    """Only ties, or none at all."""
    found = rank([Match(first="a", second="b", outcome=outcome, cluster=str(n)) for n in range(9)], seed=0)
    assert all(np.isfinite(each["elo"]) for each in found.values())
    assert (found["a"]["theta"] > found["b"]["theta"]) == (outcome == "first")
    assert found["a"]["elo"] + found["b"]["elo"] == pytest.approx(2000)


def test_intervals_are_of_clusters():
    alone = rank(MATCHES, seed=0, draws=200)
    assert alone["a"]["low"] < alone["a"]["elo"] < alone["a"]["high"]
    one = [Match(first=m.first, second=m.second, outcome=m.outcome, cluster="") for m in MATCHES]
    assert rank(one, seed=0)["a"]["low"] is None
    assert as_rows(alone)[1][0] == "a" and " to " in as_rows(alone)[1][2]


def test_systems_that_never_met_have_no_order():
    matches = [Match(first="a", second="b", outcome="tie"), Match(first="c", second="d", outcome="tie")]
    with pytest.raises(DataError, match="a and c were never compared"):
        rank(matches, seed=0)
