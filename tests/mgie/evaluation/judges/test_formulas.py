"""Scores become the numbers that were published: rules of items, means of benchmarks."""

import pytest

from mgie.evaluation.judges.formulas import RULES, item_numbers, total, weight
from mgie.evaluation.judges.rubric import Number, find_rubric, rubric_names


def of(rubric, items):
    """Number -> the benchmark's, of items given as (kind, scores)."""
    numbers = find_rubric(rubric).numbers
    found = [(kind, scores, item_numbers(numbers, scores)) for kind, scores in items]
    totals = {}
    for name, number in numbers.items():
        kept = [(kind, scores, each[name]) for kind, scores, each in found if each.get(name) is not None]
        weights = [weight(number, [scores]) for _, scores, _ in kept]
        totals[name] = total(number, [value for *_, value in kept], weights, [kind for kind, *_ in kept])
    return totals


def test_gedit_s_means_are_of_items_roots_over_kinds():
    def scores(sc, pq):
        return {"success": sc, "restraint": 10.0, "natural": 9.5, "faultless": pq}

    items = [("a", scores(9.0, 4.0)), ("a", scores(0.0, 8.0)), ("b", scores(4.0, 4.0))]
    assert of("gedit", items) == {"sc": 4.25, "pq": 5, "overall": 3.5}


ROWS = {  # published means of types, in their order, and the published overall
    "UltraEdit": ([3.44, 2.81, 2.13, 2.96, 1.45, 2.83, 3.76, 1.91, 2.98], 2.70),
    "InstructPix2Pix": ([2.45, 1.83, 1.44, 2.01, 1.50, 1.44, 3.55, 1.20, 1.46], 1.88),
    "MagicBrush": ([2.84, 1.58, 1.51, 1.97, 1.58, 1.75, 2.38, 1.62, 1.22], 1.83),
}
"""MagicBrush's published overall, 1.90, is the mean over items."""
COUNTS = [95, 94, 117, 92, 86, 94, 100, 23, 36]


@pytest.mark.parametrize("system", ROWS)
def test_imgedit_s_overall_is_the_mean_of_kinds(system):
    means, overall = ROWS[system]
    items = [
        (str(place), dict.fromkeys(("following", "rest", "look"), mean))
        for place, (mean, count) in enumerate(zip(means, COUNTS)) for _ in range(count)
    ]  # fmt: skip
    found = of("imgedit", items)
    assert round(found["overall_macro"], 2) == overall
    if system == "MagicBrush":
        assert found["overall_micro"] == pytest.approx(1.90, abs=0.01)  # of means that were rounded


@pytest.mark.parametrize(
    ("scores", "score", "accuracy"),
    [
        ({"consistency": 4.0, "reasoning": 1.0, "plausibility": 3.0}, 3.75, 0),
        ({"consistency": 1.0, "reasoning": 1.0, "plausibility": 1.0}, 0, 0),
        ({"consistency": 5.0, "reasoning": 1.0}, 2.5, 0),  # logical: yes and no
        ({"consistency": 5.0, "reasoning": 5.0, "plausibility": 5.0}, 100, 1),
        ({"reasoning": 5.0, "plausibility": 3.0}, 25 * (0.8 * 5 + 0.2 * 3 - 1), 0),  # free of consistency
        ({"reasoning": 5.0, "plausibility": 5.0}, 100, 1),
    ],
)
def test_rise(scores, score, accuracy):
    found = of("rise", [("x", scores)])
    assert found["score"] == pytest.approx(score, abs=1e-9) and found["accuracy"] == accuracy


def test_rise_s_script():
    """Consistency plays no part but in logical items; what is unread has no score, and no accuracy."""
    whole = {"consistency": 1.0, "reasoning": 5.0, "plausibility": 3.0}
    assert of("rise@script", [("x", whole)])["score"] == pytest.approx(25 * (0.8 * 5 + 0.2 * 3 - 1))
    assert of("rise", [("x", whole)])["score"] == pytest.approx(25 * (0.3 + 0.5 * 5 + 0.2 * 3 - 1))
    logical = {"consistency": 1.0, "reasoning": 5.0}
    assert of("rise@script", [("x", logical)])["score"] == of("rise", [("x", logical)])["score"]
    items = [("x", dict.fromkeys(whole, 5.0)), ("x", whole | {"consistency": None})]
    for name, accuracy in (("rise", 1), ("rise@script", 0.5)):
        assert of(name, items)["accuracy"] == accuracy and of(name, items)["score"] == 100


def test_imgedit_s_script_rounds_means_of_kinds():
    items = [("a", {"mean": 3.33}), ("a", {"mean": 3.33}), ("a", {"mean": 3.34}), ("b", {"mean": 1.0})]
    found = of("imgedit@script", items)
    assert found["overall_macro"] == (3.33 + 1) / 2 and found["overall_micro"] == pytest.approx(11 / 4)


def test_kris_pools_all_scores():
    """An item with four scores weighs 4/3 of one with three."""
    three = {"consistency": 5.0, "quality": 5.0, "following": 5.0}
    four = {"consistency": 1.0, "quality": 1.0, "following": 1.0, "knowledge": 1.0}
    assert of("kris", [("a", three), ("b", four)])["overall"] == pytest.approx(300 / 7)
    assert of("kris", [("a", three), ("b", three | {"quality": 3.0})])["overall"] == pytest.approx(550 / 6)


def test_kris_s_script_lets_no_score_take_others_along():
    unread = {"consistency": 5.0, "quality": None, "following": 3.0, "knowledge": None}
    items = [("a", unread), ("b", {"consistency": 1.0, "quality": 1.0, "following": 1.0})]
    assert of("kris@script", items)["overall"] == pytest.approx((100 + 50) / 5)
    assert of("kris", items)["overall"] == 0
    repeats = [dict.fromkeys(unread), unread]
    assert weight(find_rubric("kris@script").numbers["overall"], repeats) == 2


def test_complex_edit():
    found = of("complex_edit", [("", {"following": 9.0, "preservation": 6.0, "quality": 3.0})])
    assert found == {"if": 9, "ip": 6, "pq": 3, "overall": 6}


def test_what_could_not_be_read_takes_only_what_rests_on_it():
    scores = {"success": 4.0, "restraint": 9.0, "natural": None, "faultless": None}
    numbers = find_rubric("gedit").numbers
    assert item_numbers(numbers, scores) == {"sc": 4, "pq": None, "overall": None}
    assert item_numbers(numbers, {"success": 4.0, "restraint": 9.0}) == {"sc": 4, "overall": 4}


def test_nothing_has_no_mean():
    for average in ("micro", "macro:kind", "pooled"):
        assert total(Number(rule="mean", of=("a",), average=average), [], [], []) is None


@pytest.mark.parametrize("name", rubric_names())
def test_every_rule_exists(name):
    for number in find_rubric(name).numbers.values():
        assert number.rule in RULES and number.average in ("micro", "macro:kind", "pooled")
