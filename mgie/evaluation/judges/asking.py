"""A rubric's questions about each output, put to a judge, and what its answers say.

An answer that cannot be read is asked for again, as often as the rubric says, and is then unreadable: it has
no scores, and is counted. So are refusals and errors. A rubric that guesses draws a number instead, as the
program does whose figures it reproduces; that is counted, too.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from random import Random
from typing import Any, Literal

from mgie.data.images import decode_plain
from mgie.errors import DataError, DeviceError
from mgie.evaluation.judges.answers import Answers
from mgie.evaluation.judges.base import Ask, Encoding, Judge, Picture, shown
from mgie.evaluation.judges.data import Item, Stored
from mgie.evaluation.judges.parsers import MARK, PARSERS, checked
from mgie.evaluation.judges.rubric import Case, Rubric

Row = Literal["outputs", "copy", "oracle", "swapped"]
Status = Literal["ok", "guessed", "unreadable", "refused", "error"]
IN_A_ROW = 3
"""So many questions that an endpoint calls wrong are no matter of a single picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One picture to be judged, and what for."""

    item: Item
    row: Row
    output: Stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One of a rubric's questions about one picture."""

    shown: Shown
    name: str
    case: Case
    repeat: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a question."""

    question: Question
    status: Status
    scores: dict[str, float | None]
    """Of each score that was asked for; None where there is no answer."""
    text: str
    """The last answer as it came."""
    attempts: int


@dataclass(slots=True)
class Trouble:
    """How many questions in a row came to nothing at the endpoint."""

    count: int = 0
    held: threading.Lock = field(default_factory=threading.Lock)

    def note(self, status: str, judge: Judge, text: str) -> None:
        """Raises DeviceError where it is no matter of a single question."""
        with self.held:
            self.count = self.count + 1 if status == "error" else 0
            if self.count >= IN_A_ROW:
                raise DeviceError(
                    f"{judge.label} refused {IN_A_ROW} questions in a row ({text}): check --judge_model, "
                    "and whether it takes pictures; the answers that came are kept."
                )


def check_prompts(rubric: Rubric, items: Sequence[Item]) -> None:
    """Raise DataError for an item that the rubric has no question or no prompt for."""
    for item in items:
        cases = rubric.cases(item.kind, item.has)
        lacking = [
            name
            for case in cases.values()
            for name in (each.format(kind=item.kind) for each in case.prompt)
            if name not in rubric.prompts
        ]
        if lacking or not cases:
            kinds = sorted({kind for case in rubric.asks.values() for each in case for kind in each.kinds})
            known = ", ".join(kinds or rubric.prompts)
            raise DataError(
                f"{item.key} is of the kind {item.kind!r}, which {rubric.name} does not judge: expected "
                f"one of {known}."
            )


def questions(rubric: Rubric, pictures: Sequence[Shown], repeats: int) -> list[Question]:
    """All that is asked of these pictures, in their order."""
    return [
        Question(shown=each, name=name, case=case, repeat=repeat)
        for each in pictures
        for name, case in rubric.cases(each.item.kind, each.item.has).items()
        for repeat in range(repeats)
    ]


def put(
    rubric: Rubric,
    judge: Judge,
    answers: Answers,
    asked: Sequence[Question],
    done: Callable[[], Any] = lambda: None,
) -> Iterator[Outcome]:
    """What comes of each question, in their order, several at once where the judge takes them. Raises
    DeviceError where it cannot be asked, ConfigError where the budget is used up."""
    trouble = Trouble()

    def several(group: Sequence[Question]) -> list[Outcome]:
        way = _guessed if rubric.guesses else _put
        outcomes = way(rubric, judge, answers, group, trouble)
        for _ in group:
            done()
        return outcomes

    groups = _of_one_picture(asked) if rubric.guesses else [[question] for question in asked]
    if judge.together == 1:
        yield from chain.from_iterable(map(several, groups))
        return
    with ThreadPoolExecutor(judge.together) as pool:  # which cancels what has not begun when one fails
        yield from chain.from_iterable(pool.map(several, groups))


def _of_one_picture(asked: Sequence[Question]) -> list[list[Question]]:
    """The questions about one picture together, those of each repeat for themselves."""
    found: dict[tuple[str, str, int], list[Question]] = {}
    for question in asked:
        place = (question.shown.item.key, question.shown.row, question.repeat)
        found.setdefault(place, []).append(question)
    return list(found.values())


def ask_of(rubric: Rubric, question: Question, attempt: int = 0) -> Ask:
    """A question as the judge gets it. Raises DataError for a picture that cannot be read."""
    each, case = question.shown, question.case
    facts = each.item.facts
    words = rubric.words(case, each.item.kind, facts)
    pictures = [picture for name in case.pictures for picture in pictures_of(rubric, each, name)]
    parts = (words, *pictures) if rubric.words_first else (*pictures, words)
    settings = dict(rubric.settings)
    if rubric.structured:
        settings["response_format"] = _only(case, '"reasoning"' in words)
    return Ask(
        parts=parts, settings=settings, repeat=question.repeat, attempt=attempt,
        system=rubric.filled(rubric.prompts[rubric.system], facts) if rubric.system else "",
    )  # fmt: skip


def _put(
    rubric: Rubric, judge: Judge, answers: Answers, group: Sequence[Question], trouble: Trouble
) -> list[Outcome]:
    """Each question until its answer can be read."""
    return [_once_read(rubric, judge, answers, question, trouble) for question in group]


def _once_read(
    rubric: Rubric, judge: Judge, answers: Answers, question: Question, trouble: Trouble
) -> Outcome:
    outcome = None
    for attempt in range(1 if judge.steady else rubric.attempts):
        outcome = _asked(rubric, judge, answers, question, trouble, attempt)
        if outcome.status != "unreadable":
            break
    assert outcome
    return outcome


def _guessed(
    rubric: Rubric, judge: Judge, answers: Answers, group: Sequence[Question], trouble: Trouble
) -> list[Outcome]:
    """All questions until all answers can be read, numbers being drawn from the second time on. A judge that
    would say the same again is not asked again."""
    outcomes: list[Outcome] = []
    for attempt in range(2 if judge.steady else rubric.attempts):
        outcomes = [
            _asked(rubric, judge, answers, question, trouble, 0 if judge.steady else attempt)
            for question in group
        ]
        if attempt:
            outcomes = [_or_drawn(replace(each, attempts=attempt + 1)) for each in outcomes]
        if all(each.status in ("ok", "guessed") for each in outcomes):
            break
    return outcomes


def _or_drawn(outcome: Outcome) -> Outcome:
    """A number drawn for an answer without braces, the same one wherever and whenever it is drawn; so, too,
    for one that never came."""
    text = outcome.text if outcome.status in ("ok", "unreadable") else ""
    if ("{" in text and "}" in text) or text.count(MARK) >= 2:
        return outcome
    question = outcome.question
    item = f"{question.shown.item.key} {question.shown.row} {question.name}"
    drawn = Random(f"{item} {question.repeat} {outcome.attempts}").randint(0, 10)
    return replace(outcome, status="guessed", scores=dict.fromkeys(outcome.scores, float(drawn)))


def _asked(
    rubric: Rubric,
    judge: Judge,
    answers: Answers,
    question: Question,
    trouble: Trouble,
    attempt: int,
) -> Outcome:
    """What came of asking once."""
    answer = answers.once(judge, ask_of(rubric, question, attempt))
    trouble.note(answer.status, judge, answer.text)
    found = understood(question.case, answer.text) if answer.status == "ok" else None
    status: Status = answer.status if answer.status != "ok" else "ok" if found else "unreadable"
    nothing: dict[str, float | None] = dict.fromkeys(question.case.scores)
    return Outcome(
        question=question, status=status, scores=found or nothing, text=answer.text, attempts=attempt + 1
    )


def understood(case: Case, text: str) -> dict[str, float | None] | None:
    """The scores that an answer gives. None: it is unreadable."""
    found = checked(PARSERS[case.parser](text, case.named), case.scores, apart=bool(case.apart))
    if found and case.binary:
        return {name: None if value is None else 4 * min(value, 1) + 1 for name, value in found.items()}
    return found


def pictures_of(rubric: Rubric, each: Shown, name: str) -> list[Picture]:
    """The pictures of one name that a judge is shown: source, output or reference."""
    how, fitted = rubric.encoding, b""
    if name == "source":
        stored = each.item.sources
    elif name == "reference":
        assert each.item.reference is not None
        stored = (each.item.reference,)
    else:
        stored = (each.output,)
        fitted = read_bytes(each.item.sources[0]) if how.fit == "source" else b""
    return [seen(how, read_bytes(picture), str(picture), fitted) for picture in stored]


@lru_cache(maxsize=32)
def seen(how: Encoding, data: bytes, name: str, fitted: bytes) -> Picture:
    """A picture's file as the judge sees it, at the size of another where it is to be fitted."""
    size = decode_plain(fitted, name="the source").size if fitted else None
    return shown(decode_plain(data, name=name), how, file=data, size=size)


def read_bytes(stored: Stored) -> bytes:
    """A picture's file. Raises DataError."""
    try:
        return stored.read_bytes()
    except OSError as error:
        raise DataError(f"{stored} cannot be read ({error.strerror}): download or make it again.") from error


def _only(case: Case, reasoned: bool) -> dict[str, Any]:
    """What an endpoint is told to answer: whole numbers of the scales, as words, and nothing else."""
    words = {"reasoning": {"type": "string"}} if reasoned else {}
    scales = {
        name: {"type": "string", "enum": [str(value) for value in range(int(low), int(high) + 1)]}
        for name, (low, high) in zip(case.named, case.scores.values())
    }
    schema = {
        "type": "object", "properties": {**words, **scales}, "required": [*words, *scales],
        "additionalProperties": False,
    }  # fmt: skip
    return {"type": "json_schema", "json_schema": {"name": "scores", "strict": True, "schema": schema}}
