"""Agreement beyond chance, against published examples and the definitions."""

import pytest

from mgie.evaluation.people.agreement import agreement, cohen, fleiss, krippendorff, sign_test


def test_krippendorff_of_the_published_example():
    """Krippendorff's "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve
    units, values missing; nominal alpha is .743."""
    rows = (
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    )
    units = [[str(row[place]) for row in rows if row[place]] for place in range(12)]
    assert krippendorff(units) == pytest.approx(0.743, abs=5e-4)


def test_cohen():
    """Of 50 cases both say yes to 20 and no to 15, and differ in 5 and 10: observed .7, chance .5."""
    first, second = "y" * 25 + "n" * 25, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen(first, second) == pytest.approx(0.4)
    assert cohen("ab", "ab") == 1 and cohen("aa", "aa") is None and cohen("", "") is None


def test_fleiss():
    """Ten cases, fourteen raters, five categories: kappa is .210 (Fleiss 1971, as worked out widely)."""
    counts = (
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    )  # fmt: skip
    units = [[name for name, count in zip("abcde", row) for _ in range(count)] for row in counts]
    assert fleiss(units) == pytest.approx(0.210, abs=5e-4)
    assert fleiss([["a", "a"], ["b", "b"]]) == 1 and fleiss([]) is None and fleiss([["a"]]) is None


def test_agreement_is_of_what_several_rated():
    ratings = {"x": {"1": "a", "2": "b", "3": "a"}, "y": {"1": "a", "2": "b"}, "z": {"2": "b", "1": "a"}}
    assert agreement(ratings) == {"krippendorff": 1, "cohen": 1, "fleiss": 1}
    nothing = agreement({"x": {"1": "a"}, "y": {"2": "b"}})
    assert nothing == {"krippendorff": None, "cohen": None, "fleiss": None}


def test_sign_test():
    assert sign_test(5, 5) == sign_test(0, 0) == 1
    assert sign_test(0, 5) == sign_test(5, 0) == 2 / 32 and sign_test(1, 9) == pytest.approx(22 / 1024)
