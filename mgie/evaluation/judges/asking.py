"""A rubric's questions about each output, put to a judge, and what its answers say.

An answer that cannot be read is asked for again, as often as the rubric says, and is then unreadable: it has
no scores, and is counted. So are refusals and errors.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from mgie.data.images import decode_plain
from mgie.errors import DataError, DeviceError
from mgie.evaluation.judges.answers import Answers
from mgie.evaluation.judges.base import Ask, Encoding, Judge, Picture, shown
from mgie.evaluation.judges.data import Item, Stored
from mgie.evaluation.judges.parsers import PARSERS, checked
from mgie.evaluation.judges.rubric import Case, Rubric

Row = Literal["outputs", "copy", "oracle", "swapped"]
Status = Literal["ok", "unreadable", "refused", "error"]
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
class _Trouble:
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
    trouble = _Trouble()

    def one(question: Question) -> Outcome:
        outcome = _put(rubric, judge, answers, question, trouble)
        done()
        return outcome

    if judge.together == 1:
        yield from map(one, asked)
        return
    with ThreadPoolExecutor(judge.together) as pool:
        yield from pool.map(one, asked)  # which cancels what has not begun when one fails


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


def _put(rubric: Rubric, judge: Judge, answers: Answers, question: Question, trouble: _Trouble) -> Outcome:
    nothing: dict[str, float | None] = dict.fromkeys(question.case.scores)
    attempts = 1 if judge.steady else rubric.attempts
    text, attempt = "", 0
    status: Status = "unreadable"
    for attempt in range(attempts):
        answer = answers.once(judge, ask_of(rubric, question, attempt))
        trouble.note(answer.status, judge, answer.text)
        text = answer.text
        if answer.status != "ok":
            status = answer.status
            break
        if found := understood(question.case, text):
            return Outcome(
                question=question, status="ok", scores=dict(found), text=text, attempts=attempt + 1
            )
    return Outcome(question=question, status=status, scores=nothing, text=text, attempts=attempt + 1)


def understood(case: Case, text: str) -> dict[str, float] | None:
    """The scores that an answer gives. None: it is unreadable."""
    found = checked(PARSERS[case.parser](text, tuple(case.scores)), case.scores)
    if found and case.binary:
        return {name: 4 * min(value, 1) + 1 for name, value in found.items()}
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
        fitted = _bytes(each.item.sources[0]) if how.fit == "source" else b""
    return [_seen(how, _bytes(picture), str(picture), fitted) for picture in stored]


@lru_cache(maxsize=32)
def _seen(how: Encoding, data: bytes, name: str, fitted: bytes) -> Picture:
    """A picture's file as the judge sees it, at the size of another where it is to be fitted."""
    size = decode_plain(fitted, name="the source").size if fitted else None
    return shown(decode_plain(data, name=name), how, file=data, size=size)


def _bytes(stored: Stored) -> bytes:
    try:
        return stored.read_bytes()
    except OSError as error:
        raise DataError(f"{stored} cannot be read ({error.strerror}): download or make it again.") from error


def _only(case: Case, reasoned: bool) -> dict[str, Any]:
    """What an endpoint is told to answer: whole numbers of the scales, as words, and nothing else."""
    words = {"reasoning": {"type": "string"}} if reasoned else {}
    scales = {
        name: {"type": "string", "enum": [str(value) for value in range(int(low), int(high) + 1)]}
        for name, (low, high) in case.scores.items()
    }
    schema = {
        "type": "object", "properties": {**words, **scales}, "required": [*words, *scales],
        "additionalProperties": False,
    }  # fmt: skip
    return {"type": "json_schema", "json_schema": {"name": "scores", "strict": True, "schema": schema}}
