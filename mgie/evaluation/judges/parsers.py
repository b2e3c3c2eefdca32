"""From a judge's words to numbers, as the published programs read them.

Each parser gives what it found, whatever it is, or None; `checked` says whether that is an answer: as many
numbers as were asked for, each inside its scale. What is none is unreadable, and never becomes a number.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LONGEST = 200_000
"""Characters of an answer that are looked at."""
MARK = "||V^=^V||"
"""Two of these enclose an answer, where VIEScore's older prompts ask for it."""
_PAIR = re.compile(r"\[\d+, ?\d+\]")
_KEY = re.compile(r"([{,]\s*)([A-Za-z_]\w*)\s*:")
_WORDS = re.compile(r':\s*([A-Za-z][^,\[\]{}":]*?)\s*(?=[,}])')
_RUN = r"(?:\*\*)?:?\s*([\d*\s,]*)"
_FINAL = tuple(re.compile(name + _RUN, re.IGNORECASE) for name in ("Final Score", "Final Scores"))
_BLOCK = re.compile(r"\{[^{}]*\}")
_DIGITS = (r"([1-5]) ?/ ?5", r"([1-5]) out of 5", r"\b([1-5])\b")
_VERDICT = re.compile(r"\b(A|B|TIE)\b")


def json_scores(text: str, fields: Sequence[str] = ()) -> list[Any] | None:  # noqa: ARG001
    """The list `score` of a JSON object, or what VIEScore (Ku et al. 2024) and GEdit-Bench take for one: a
    bare pair in brackets, a bare whole number of 0 to 10, an object whose names have no quotes."""
    text = text[:LONGEST].replace("\n", "")
    if text.count(MARK) >= 2:
        text = text.split(MARK)[1]
    elif "{" in text and "}" in text:
        text = text[text.index("{") : text.rindex("}") + 1]
    elif "[" in text and "]" in text and _PAIR.fullmatch(text[text.index("[") : text.rindex("]") + 1]):
        return _loaded(text[text.index("[") : text.rindex("]") + 1])
    else:
        bare = text.strip()
        return [int(bare)] if re.fullmatch(r"\d|10", bare, re.ASCII) else None
    found = _loaded(text)
    if not isinstance(found, Mapping):
        quoted = _KEY.sub(r'\1"\2":', text)
        found = _loaded(_WORDS.sub(r': "\1"', quoted))
    if not isinstance(found, Mapping) or "score" not in found:
        return None
    score = found["score"]
    return score if isinstance(score, list) else [score]


def json_least(text: str, fields: Sequence[str] = ()) -> list[Any] | None:  # noqa: ARG001
    """The least number of such a list, however many there are, which is all that GEdit-Bench's own program
    looks at."""
    found = json_scores(text)
    numbers = found and all(isinstance(each, (int, float)) for each in found)
    return [min(found)] if found and numbers else None


def labelled_lines(text: str, fields: Sequence[str] = ()) -> list[int] | None:  # noqa: ARG001
    """The digits at the end of lines `name: digits`, in their order, as ImgEdit-Bench (Ye et al. 2025) reads
    them; other lines, such as `name: 4/5`, say nothing."""
    found = []
    for line in text[:LONGEST].splitlines():
        parts = line.strip().split(": ")
        if len(parts) == 2 and re.fullmatch(r"\d{1,9}", parts[1], re.ASCII):
            found.append(int(parts[1]))
    return found or None


def labelled_mean(text: str, fields: Sequence[str] = ()) -> list[float] | None:
    """The mean of all such lines, however many there are, to two digits: ImgEdit-Bench's own number of an
    item."""
    found = labelled_lines(text, fields)
    return [round(sum(found) / len(found), 2)] if found else None


def final_score(text: str, fields: Sequence[str] = ()) -> list[int] | None:  # noqa: ARG001
    """The whole numbers behind the first `Final Score` that has any, else behind `Final Scores`, in any case
    and with or without asterisks and colon, as RISEBench (Zhao et al. 2025) reads them."""
    for pattern in _FINAL:
        for match in pattern.finditer(text[:LONGEST]):
            if numbers := re.findall(r"\d{1,9}", match[1], re.ASCII):
                return [int(number) for number in numbers]
    return None


def json_fields(text: str, fields: Sequence[str]) -> list[Any] | None:
    """The named fields of the first JSON object that has them all; numbers may be written as texts, which
    is what a list of allowed words makes of them."""
    text, reader, at = text[:LONGEST], json.JSONDecoder(), -1
    for _ in range(1000):
        at = text.find("{", at + 1)
        if at < 0:
            return None
        try:
            found, _ = reader.raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        if all(name in found for name in fields):
            return [_number(found[name]) for name in fields]
    return None


def json_or_digit(text: str, fields: Sequence[str]) -> list[int | None] | None:
    """Each field of the first object without inner braces that names the first one; where that is none, what
    stands behind the field's words, and of a single field also `4/5`, `4 out of 5` and at last the first 1 to
    5 that stands alone, as KRIS-Bench's own program (Wu et al. 2025) reads an answer. None for each field
    that is not found."""
    text = " ".join(text[:LONGEST].split())
    block = next((each for each in _BLOCK.findall(text) if fields[0] in each), "")
    said = _loaded(block)
    if isinstance(said, Mapping):
        found = [_whole(said.get(name)) for name in fields]
        if len(fields) > 1 or found[0] is not None:
            return found
    found = [
        _behind(text, [rf"{name.removesuffix('_score')}[_ ]?score ?[:\uff1a]? ?([1-5])"]) for name in fields
    ]
    return found if len(fields) > 1 or found[0] is not None else [_behind(text, _DIGITS)]


def _behind(text: str, patterns: Sequence[str]) -> int | None:
    matches = (re.search(pattern, text, re.IGNORECASE) for pattern in patterns)
    return next((int(match[1]) for match in matches if match), None)


def _whole(value: Any) -> int | None:
    """What Python's `int` makes of it."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def verdict(text: str) -> str | None:
    """`A`, `B` or `TIE`: the last such word in capitals. None: there is none."""
    found = _VERDICT.findall(text[:LONGEST])
    return found[-1] if found else None


def winner(text: str) -> str | None:
    """`A`, `B` or `TIE`: the field `winner` of the first object of JSON that has one, in any case and also as
    `Image A`; else the last such word in capitals."""
    found = json_fields(text, ("winner",))
    if found and isinstance(found[0], str):
        said = found[0].strip().upper().removeprefix("IMAGE").strip()
        return said if said in ("A", "B", "TIE") else None
    return verdict(text)


PARSERS: dict[str, Callable[[str, Sequence[str]], list[Any] | None]] = {
    "json_scores": json_scores,
    "json_least": json_least,
    "json_or_digit": json_or_digit,
    "labelled_lines": labelled_lines,
    "labelled_mean": labelled_mean,
    "final_score": final_score,
    "json_fields": json_fields,
}
"""What a rubric may name."""


def checked(
    found: list[Any] | None, scales: Mapping[str, tuple[int | float, int | float]], *, apart: bool = False
) -> dict[str, float | None] | None:
    """What was found as scores by their names. None: not as many as scales, or one outside its own; where
    they count `apart`, such a one is None by itself."""
    if found is None or len(found) != len(scales):
        return None
    values = [_inside(value, scale) for value, scale in zip(found, scales.values())]
    missing = [value is None for value in values]
    return None if all(missing) or (any(missing) and not apart) else dict(zip(scales, values))


def _inside(value: Any, scale: tuple[int | float, int | float]) -> float | None:
    """A number inside its scale."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if scale[0] <= value <= scale[1] else None  # nor is what is no number inside


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value, re.ASCII) else value
