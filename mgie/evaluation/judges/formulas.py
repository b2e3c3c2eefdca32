"""Scores of an answer -> numbers of an item -> numbers of a benchmark.

Scores that were not asked for are absent; one that could not be read is None, and what rests on it is None.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from mgie.evaluation.judges.rubric import Number
from mgie.evaluation.measures.averages import macro, micro

Scores = Mapping[str, float | None]


def item_numbers(numbers: Mapping[str, Number], scores: Scores) -> dict[str, float | None]:
    """Each number of one item, later ones of earlier ones. Absent: nothing that it rests on was asked."""
    known: dict[str, float | None] = dict(scores)
    found: dict[str, float | None] = {}
    for name, number in numbers.items():
        present = {each: known[each] for each in number.of if each in known}
        if not present:
            continue
        whole = {each: value for each, value in present.items() if value is not None}
        enough = len(whole) == len(present) or (whole and number.unread == "without")
        unread = 0.0 if number.unread == "zero" else None
        known[name] = found[name] = RULES[number.rule](number, whole) if enough else unread
    return found


def weight(number: Number, repeats: Sequence[Scores]) -> int:
    """How much an item counts: as often as it has scores where those are pooled, else once. Of several
    repeats the one in which most could be read says it."""
    if number.average != "pooled":
        return 1
    return max(sum(scores.get(each) is not None for each in number.of) for scores in repeats)


def total(
    number: Number, values: Sequence[float], weights: Sequence[int], kinds: Sequence[str]
) -> float | None:
    """The number of a benchmark. None of nothing."""
    kind, _, of = number.average.partition(":")
    if kind == "macro":
        assert of == "kind"
        digits = number.digits
        mean = macro(values, kinds).value if digits is None else _rounded(values, kinds, digits)
    elif kind == "pooled":
        mean = math.fsum(map(math.prod, zip(values, weights))) / sum(weights) if values else None
    else:
        mean = micro(values).value
    return mean


def _rounded(values: Sequence[float], kinds: Sequence[str], digits: int) -> float | None:
    parts = [[value for value, own in zip(values, kinds) if own == kind] for kind in sorted(set(kinds))]
    means = [round(math.fsum(part) / len(part), digits) for part in parts]
    return math.fsum(means) / len(means) if means else None


def _geometric(_: Number, scores: Mapping[str, float]) -> float:
    return math.prod(scores.values()) ** (1 / len(scores))


def _mean(_: Number, scores: Mapping[str, float]) -> float:
    return math.fsum(scores.values()) / len(scores)


def _percent(number: Number, scores: Mapping[str, float]) -> float:
    """Scores of 1 to 5 as 0 to 100."""
    return 25 * (_mean(number, scores) - 1)


def _weighted(number: Number, scores: Mapping[str, float]) -> float:
    """By the weights for just these scores (RISEBench: with and without consistency, with and without
    plausibility). A score of reasoning of 1 halves the whole, which stays at least 1; in percent."""
    key = "+".join(sorted(scores))
    value = math.fsum(number.weights[key][name] * score for name, score in scores.items())
    if number.halved_by and scores[number.halved_by] == 1:
        value = max(1.0, value / 2)
    return 25 * (value - 1)


def _all_best(number: Number, scores: Mapping[str, float]) -> float:
    """1 where every score is the best there is, else 0."""
    return float(all(score == number.best for score in scores.values()))


RULES: dict[str, Callable[[Number, Mapping[str, float]], float]] = {
    "min": lambda _, scores: min(scores.values()),
    "mean": _mean,
    "geometric_mean": _geometric,
    "percent": _percent,
    "weighted_percent": _weighted,
    "all_best": _all_best,
}
"""What a rubric may name."""
