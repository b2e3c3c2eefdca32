"""What judged answers come to: numbers of items and benchmarks, and how far they vary."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mgie.evaluation.judges.asking import Outcome
from mgie.evaluation.judges.formulas import item_numbers, total, weight
from mgie.evaluation.judges.rubric import Rubric

FAILED_AT_MOST = 0.01
"""Share of pictures without a number above which a benchmark's number is not told."""
FAR = 1.0
"""Two answers that differ by more are far apart."""


@dataclass(kw_only=True, slots=True)
class Judged:
    """All that was answered about one picture."""

    key: str
    kind: str
    row: str
    instruction: str
    answers: list[Outcome] = field(default_factory=list)

    def repeats(self) -> list[dict[str, float | None]]:
        """The scores of each repeat, of all questions together."""
        found: dict[int, dict[str, float | None]] = {}
        for each in self.answers:
            found.setdefault(each.question.repeat, {}).update(each.scores)
        return [found[repeat] for repeat in sorted(found)]

    def numbers(self, rubric: Rubric) -> dict[str, float | None]:
        """Its numbers: of each the mean over the repeats that have it, None where none has."""
        found: dict[str, list[float]] = {}
        for scores in self.repeats():
            for name, value in item_numbers(rubric.numbers, scores).items():
                found.setdefault(name, []).extend([] if value is None else [value])
        return {name: math.fsum(each) / len(each) if each else None for name, each in found.items()}


def gathered(outcomes: Iterable[Outcome]) -> list[Judged]:
    """Outcomes by picture, in their order."""
    found: dict[tuple[str, str], Judged] = {}
    for outcome in outcomes:
        each = outcome.question.shown
        words = each.item.facts.get("instruction", "")
        judged = Judged(key=each.item.key, kind=each.item.kind, row=each.row, instruction=words)
        found.setdefault((each.item.key, each.row), judged).answers.append(outcome)
    return list(found.values())


def summary(rubric: Rubric, judged: Sequence[Judged]) -> dict[str, Any]:
    """n, the numbers of some pictures, and of how many each could not be told; a number that too many
    pictures lack is None, and named under `withheld`."""
    facts: dict[str, Any] = {"n": len(judged), "numbers": {}}
    missing: dict[str, int] = {}
    found = [each.numbers(rubric) for each in judged]
    for name, number in rubric.numbers.items():
        wanted = [place for place, each in enumerate(found) if name in each]
        there = [(place, found[place][name]) for place in wanted]
        kept = [(place, value) for place, value in there if value is not None]
        if len(kept) < len(wanted):
            missing[name] = len(wanted) - len(kept)
        weights = [weight(number, judged[place].repeats()) for place, _ in kept]
        kinds = [judged[place].kind for place, _ in kept]
        facts["numbers"][name] = total(number, [value for _, value in kept], weights, kinds)
        if len(wanted) - len(kept) > FAILED_AT_MOST * len(wanted):
            facts["numbers"][name] = None
            facts.setdefault("withheld", []).append(name)
    return facts | ({"without": missing} if missing else {})


def by_group(rubric: Rubric, judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Kinds, and the rubric's groups of kinds: group -> its members' summaries."""
    members = {
        kind: [each for each in judged if each.kind == kind] for kind in {each.kind for each in judged}
    }
    found = {"kind": {kind: summary(rubric, members[kind]) for kind in sorted(members)}}
    for name, groups in rubric.groups.items():
        chosen = {group: [each for each in judged if each.kind in kinds] for group, kinds in groups.items()}
        found[name] = {group: summary(rubric, each) for group, each in chosen.items() if each}
    return found


def counted(judged: Sequence[Judged]) -> dict[str, int]:
    """How many answers there are, how many came to nothing and why, and how many were asked for again."""
    answers = [answer for each in judged for answer in each.answers]
    statuses = Counter(answer.status for answer in answers if answer.status != "ok")
    again = sum(answer.attempts > 1 for answer in answers)
    return {"answers": len(answers), **dict(sorted(statuses.items())), "asked_again": again}


def noise(rubric: Rubric, judged: Sequence[Judged]) -> dict[str, Any]:
    """How far answers to one question differ: of each score the deviation within items, and the share of
    items whose answers are more than 1 apart; of each number its value by each repeat, and its deviation.
    Empty where nothing was asked twice."""
    repeats = max((len(each.repeats()) for each in judged), default=0)
    if repeats < 2:
        return {}
    scores: dict[str, list[list[float]]] = {}
    for each in judged:
        rows = each.repeats()
        for name in rows[0]:
            values = [value for row in rows if (value := row.get(name)) is not None]
            if len(values) > 1:
                scores.setdefault(name, []).append(values)
    within = {
        name: {
            "deviation": math.sqrt(statistics.fmean(statistics.variance(values) for values in each)),
            "far_apart": statistics.fmean(max(values) - min(values) > FAR for values in each),
            "n": len(each),
        }
        for name, each in scores.items()
    }
    numbers: dict[str, Any] = {}
    each_repeat = [_only(judged, repeat) for repeat in range(repeats)]
    for name in rubric.numbers:
        values = [summary(rubric, part)["numbers"][name] for part in each_repeat]
        whole = [value for value in values if value is not None]
        if len(whole) > 1:
            numbers[name] = {
                "mean": statistics.fmean(whole), "deviation": statistics.stdev(whole), "values": values
            }  # fmt: skip
    return {"repeats": repeats, "scores": within, "numbers": numbers}


def _only(judged: Sequence[Judged], repeat: int) -> list[Judged]:
    """The same pictures with one repeat's answers."""
    parts = [
        Judged(
            key=each.key, kind=each.kind, row=each.row, instruction=each.instruction,
            answers=[answer for answer in each.answers if answer.question.repeat == repeat],
        )
        for each in judged
    ]  # fmt: skip
    return [each for each in parts if each.answers]
