"""Answers are read as the published programs read them, and what is none never becomes a number."""

import json
import random
import string

import pytest

from mgie.evaluation.judges.parsers import (
    PARSERS,
    checked,
    final_score,
    json_fields,
    json_least,
    json_or_digit,
    json_scores,
    labelled_lines,
    labelled_mean,
    verdict,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"score": [7, 9], "reasoning": "x"}', [7, 9]),
        ('```json\n{"score": [7, 9],\n "reasoning": "x"}\n```', [7, 9]),
        ('||V^=^V||{"score": [1, 2], "reasoning": "x"}||V^=^V||', [1, 2]),
        ("scores: [6, 0].", [6, 0]),
        ("7", [7]),
        ("10", [10]),
        ("11", None),
        ("I say 7", None),
        ('{"score": 5, "reasoning": "x"}', [5]),
        ("{score: 5, reasoning: fine}", [5]),
        ("{score: [5, 6], reasoning: fine}", [5, 6]),
        ('{"score": [7, 9], "reasoning": "it says "no" there"}', None),
        ('""', None),
        ("", None),
        ("[11,3]", [11, 3]),
        ("[1, 2, 3]", None),
        ('{"score": ["7", "8"], "reasoning": "x"}', ["7", "8"]),
        ('{"scores": [7, 9]}', None),
        ("}{", None),
    ],
)
def test_vie_scores(text, found):
    assert json_scores(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A: 4\nB: 3\nC: 3", [4, 3, 3]),
        ("A: 4/5\nB: 3", [3]),
        ("A: 4.\nB:4", None),
        ("A: b: 4", None),
        ("  A: 2  \r\n\r\nB: 5", [2, 5]),
        ("", None),
        ("A: ٤", None),
    ],
)
def test_lines_of_imgedit(text, found):
    assert labelled_lines(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("**Final Score**: 4", [4]),
        ("so it is.\nfinal score: **4**", [4]),
        ("Final Score 3", [3]),
        ("Final Scores: 1, 0", [1, 0]),
        ("Final Score: 4, 5", [4, 5]),
        ("Final Score: unknown. Final Score: 2", [2]),
        ("Final Score: 5/5", [5]),
        ("Score: 4", None),
        ("", None),
    ],
)
def test_final_scores_of_rise(text, found):
    assert final_score(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 3, "b": "4", "reason": "x"}', [3, 4]),
        ('Let me see. {"c": 1} and so {"b": 1, "a": 2}.', [2, 1]),
        ('{"a": 3}', None),
        ('{"a": {"a": 1, "b": 2}}', [1, 2]),
        ('{"a": "4.5", "b": 1}', ["4.5", 1]),
        ("{" * 5000, None),
        ('{"a":' * 5000, None),
    ],
)
def test_fields(text, found):
    assert json_fields(text, ("a", "b")) == found


@pytest.mark.parametrize(
    ("text", "found"), [("A", "A"), ("I think B.", "B"), ("A or B? TIE", "TIE"), ("a", None), ("", None)]
)
def test_verdicts(text, found):
    assert verdict(text) == found


SCALES = {"a": (0, 10), "b": (0, 10)}


@pytest.mark.parametrize(
    ("found", "scores"),
    [
        ([7, 9.5], {"a": 7, "b": 9.5}),
        ([11, 3], None),
        ([7], None),
        ([7, 8, 9], None),
        (["7", "8"], None),
        ([True, 8], None),
        ([float("nan"), 8], None),
        ([float("inf"), 8], None),
        ([[7], 8], None),
        ([10**400, 8], None),
        (None, None),
    ],
)
def test_only_as_many_scores_as_asked_for_and_inside_their_scale(found, scores):
    assert checked(found, SCALES) == scores


@pytest.mark.parametrize("parser", PARSERS)
def test_whatever_is_said_gives_scores_inside_their_scale_or_none(parser):
    """Pieces of answers in every order, cut anywhere, with other letters put in."""
    draw = random.Random(parser)
    pieces = [
        '{"score": [', "7", ", ", "11", "]", "}", '"', "Final Score", "**", ": ", "\n", "{a: ", "[", "null",
        '"a": 3', '"b": 4', "NaN", "-1", "1e999", "\\u0000", "||V^=^V||", "{", "٣", "\ud800",
    ]  # fmt: skip
    for _ in range(3000):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(12)))
        at = draw.randrange(len(text) + 1)
        text = text[:at] + draw.choice(string.printable) * draw.randrange(3) + text[at:]
        found = checked(PARSERS[parser](text, tuple(SCALES)), SCALES)
        assert found is None or (
            set(found) == set(SCALES) and all(0 <= each <= 10 for each in found.values())
        )


def test_what_is_asked_for_is_read_whatever_is_around_it():
    draw = random.Random(0)
    for _ in range(500):
        scores = [draw.randrange(11), draw.randrange(11)]
        noise = "".join(draw.choice(string.ascii_letters + " .,!\n") for _ in range(40))
        said = json.dumps({"score": scores, "reasoning": noise}, indent=draw.choice([None, 1]))
        assert json_scores(f"{noise}{said}{noise}") == scores
        fields = json.dumps({"reasoning": noise, "a": scores[0], "b": str(scores[1])})
        assert json_fields(f"{noise}{fields}{noise}", ("a", "b")) == scores
        assert final_score(f"{noise}\n**Final Score:** {scores[0]}") == [scores[0]]
        assert labelled_lines(f"Following: {scores[0]}\n{noise}\n Rest: {scores[1]} ") == scores


@pytest.mark.parametrize("parser", PARSERS)
def test_a_long_answer_takes_no_time(parser):
    for text in ("{" * 10**6, "[1, 2" * 10**5, "Final Score" * 10**5, "a: 1\n" * 10**5, ": x" * 10**5 + "}{"):
        PARSERS[parser](text, ("a", "b"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 4\nb: 3\nc: 3", [3.33]),
        ("a: 4/5\nb: 3", [3.0]),
        ("a: 4.\nb:4\nc: 9", [9.0]),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_script_of_imgedit_takes_what_lines_there_are(text, found):
    assert labelled_mean(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"score": [7, 9, 3], "reasoning": "x"}', [3]),
        ('{"score": [11, 12.5]}', [11]),
        ('{"score": ["7", "8"]}', None),
        ('{"score": []}', None),
        ("nothing", None),
    ],
)
def test_the_script_of_gedit_looks_at_the_least_number(text, found):
    assert json_least(text) == found


@pytest.mark.parametrize(
    ("text", "one", "two"),
    [
        ('{"a_score": 4, "b_score": 2}', [4], [4, 2]),
        ('```json\n{"a_score": "4",\n "reason": "5 things"}\n```', [4], [4, None]),
        ('{"a_score": 9}', [9], [9, None]),  # in any range
        ('{"x": 3} {"a_score": null}', [3], [None, None]),  # the first digit that stands alone
        ("A score: 4. B_score:2", [4], [4, 2]),
        ("I give 3/5, not 4/5.", [3], [None, None]),
        ("two out of 5, or 4 out of 5", [4], [None, None]),
        ("Picture 2 is fine: 10", [2], [None, None]),
        ("15 or 6", [None], [None, None]),
        ("", [None], [None, None]),
    ],
)
def test_the_script_of_kris_takes_whatever_number_there_is(text, one, two):
    assert json_or_digit(text, ("a_score",)) == one and json_or_digit(text, ("a_score", "b_score")) == two


def test_scores_that_count_apart():
    scales = {"a": (1, 5), "b": (1, 5)}
    assert checked([4, None], scales, apart=True) == {"a": 4, "b": None}
    assert checked([4, None], scales) is None and checked([9, None], scales, apart=True) is None
