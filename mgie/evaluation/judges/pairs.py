"""Two systems' outputs of each item, put to a judge: who wins, and whether a place does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from mgie.evaluation.comparing.ranking import Match
from mgie.evaluation.judges.answers import Answers
from mgie.evaluation.judges.asking import Trouble, read_bytes, seen
from mgie.evaluation.judges.base import Ask, Judge
from mgie.evaluation.judges.data import Item
from mgie.evaluation.judges.pair_rubric import PairRubric
from mgie.evaluation.judges.parsers import winner

Verdict = Literal["first", "second", "tie"]
MEANT: dict[str, Verdict] = {"A": "first", "B": "second", "TIE": "tie"}
TURNED: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """One question about two systems' outputs of one item."""

    item: Item
    question: str
    first: str
    """The system whose name comes first."""
    second: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What the judge said, told as if the first system were always A. None: it could not be read."""

    duel: Duel
    verdicts: tuple[Verdict | None, ...]
    """In the one order, and in the other where that was asked."""
    texts: tuple[str, ...]
    """The last answers as they came."""

    @property
    def outcome(self) -> Verdict | None:
        """Who won. Verdicts that disagree are a tie; one that could not be read leaves nothing."""
        if None in self.verdicts:
            return None
        return self.verdicts[0] if len(set(self.verdicts)) == 1 else "tie"

    def match(self) -> Match | None:
        """The outcome as a match of the two systems."""
        return self.outcome and Match(
            first=self.duel.first, second=self.duel.second, outcome=self.outcome,
            question=self.duel.question, cluster=self.duel.item.key,
        )  # fmt: skip


def duels(rubric: PairRubric, items: Sequence[Item], systems: Sequence[str]) -> list[Duel]:
    """All that is asked: each item, each two systems, each question."""
    return [
        Duel(item=item, question=question, first=first, second=second)
        for item in items
        for first, second in combinations(sorted(systems), 2)
        for question in rubric.prompts
    ]


def decide(
    rubric: PairRubric,
    judge: Judge,
    answers: Answers,
    asked: Sequence[Duel],
    outputs: Mapping[str, Mapping[str, Path]],
    done: Callable[[], Any] = lambda: None,
) -> Iterator[Decided]:
    """What comes of each duel, in their order; `outputs` is system -> key -> its file. Raises DeviceError
    where the judge cannot be asked, ConfigError where the budget is used up."""
    trouble = Trouble()

    def one(duel: Duel) -> Decided:
        said = [
            _verdict(rubric, judge, answers, duel, outputs, trouble, turned=turned)
            for turned in ((False, True) if rubric.orders == "both" else (False,))
        ]
        done()
        return Decided(duel=duel, verdicts=tuple(v for v, _ in said), texts=tuple(text for _, text in said))

    if judge.together == 1:
        yield from map(one, asked)
        return
    with ThreadPoolExecutor(judge.together) as pool:
        yield from pool.map(one, asked)


def _verdict(
    rubric: PairRubric,
    judge: Judge,
    answers: Answers,
    duel: Duel,
    outputs: Mapping[str, Mapping[str, Path]],
    trouble: Trouble,
    *,
    turned: bool,
) -> tuple[Verdict | None, str]:
    """One order's verdict as if the first system were A, and the words."""
    text = ""
    for attempt in range(1 if judge.steady else rubric.attempts):
        answer = answers.once(judge, ask_of(rubric, duel, outputs, turned=turned, attempt=attempt))
        trouble.note(answer.status, judge, answer.text)
        text = answer.text
        if answer.status != "ok":
            break
        if said := winner(text):
            return (TURNED[MEANT[said]] if turned else MEANT[said]), text
    return None, text


def ask_of(
    rubric: PairRubric,
    duel: Duel,
    outputs: Mapping[str, Mapping[str, Path]],
    *,
    turned: bool = False,
    attempt: int = 0,
) -> Ask:
    """A duel as the judge gets it; `turned`: the second system is A. Raises DataError."""
    key = duel.item.key
    sides = (duel.second, duel.first) if turned else (duel.first, duel.second)
    lying = {
        "source": duel.item.sources[0],
        **dict(zip(("first", "second"), (outputs[s][key] for s in sides))),
    }
    fitted = read_bytes(lying["source"]) if rubric.encoding.fit == "source" else b""
    shown = (lying[name] for name in rubric.pictures[duel.question])
    pictures = [seen(rubric.encoding, read_bytes(each), str(each), fitted) for each in shown]
    words = rubric.words(duel.question, duel.item.facts)
    return Ask(parts=(words, *pictures), settings=dict(rubric.settings), attempt=attempt)
