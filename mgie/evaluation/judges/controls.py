"""Whether a judge is usable: what it says of pictures whose quality is known.

On some items it is also shown the picture before the edit as if it were the output (`copy`: nothing was
followed), the picture that should come out, where data have one (`oracle`), the output under another item's
instruction (`swapped`), and output and source side by side in both orders (`order`: one must win both times).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mgie.evaluation.judges.answers import Answers
from mgie.evaluation.judges.asking import Shown, pictures_of
from mgie.evaluation.judges.base import Ask, Judge
from mgie.evaluation.judges.data import Item, Stored
from mgie.evaluation.judges.parsers import verdict
from mgie.evaluation.judges.results import Judged, summary
from mgie.evaluation.judges.rubric import Rubric

COPY_AT_MOST, SWAPPED_AT_MOST, ORACLE_AT_LEAST = 0.3, 0.4, 0.7
"""Of the scale of following: what doing nothing and another instruction may get, and what the target must."""
SAME_AT_LEAST = 0.75
"""Share of pairs of which the same one must win in both orders."""
WHICH = """The first picture was to be edited in these words: {instruction}
The second picture is called A, the third B. Which of the two follows the words better?
Answer with one word: A, B or TIE."""
SWITCHED = {"A": "B", "B": "A", "TIE": "TIE"}


@dataclass(frozen=True, slots=True)
class Pair:
    """What the judge said of one pair, in both orders. None: it could not be read."""

    key: str
    first: str | None
    """With the output as A."""
    second: str | None
    """With the output as B, told as if it were A."""


def chosen(items: Sequence[Item], count: int) -> list[Item]:
    """The items that controls are made of: the same for every system and judge, by hashes of their keys."""
    return sorted(items, key=lambda item: hashlib.sha256(item.key.encode()).hexdigest())[:count]


def control_pictures(items: Sequence[Item], outputs: Mapping[str, Stored]) -> list[Shown]:
    """What is shown besides the outputs. Under `swapped` an output is asked about as if it were another
    item's, with that one's words, kind and reference; of another kind, where there is one."""
    found = [Shown(item=item, row="copy", output=item.sources[0]) for item in items]
    found += [
        Shown(item=item, row="oracle", output=item.reference) for item in items if item.reference is not None
    ]
    for place, item in enumerate(items):
        others = [*items[place + 1 :], *items[:place]]
        others = [other for other in others if _words(other) != _words(item)]
        other = next((each for each in others if each.kind != item.kind), others[0] if others else None)
        if other is not None:
            asked = replace(other, key=item.key, sources=item.sources)
            found.append(Shown(item=asked, row="swapped", output=outputs[item.key]))
    return found


def _words(item: Item) -> str:
    return item.facts.get("instruction", "")


def both_orders(
    rubric: Rubric,
    judge: Judge,
    answers: Answers,
    items: Sequence[Item],
    outputs: Mapping[str, Stored],
    done: Callable[[], Any] = lambda: None,
) -> list[Pair]:
    """What the judge says of each output beside its source, in both orders."""
    found = []
    for item in items:
        said = []
        for order in (False, True):
            answer = answers.once(judge, _which(rubric, item, outputs[item.key], turned=order))
            said.append(verdict(answer.text) if answer.status == "ok" else None)
            done()
        turned = None if said[1] is None else SWITCHED[said[1]]
        found.append(Pair(item.key, said[0], turned))
    return found


def verdict_of(
    rubric: Rubric, rows: Mapping[str, Sequence[Judged]], pairs: Sequence[Pair], judge: Judge
) -> dict[str, Any]:
    """What the controls came to, and why the judge is not usable. `usable` is None where none was asked."""
    want, wrong = rubric.following, []
    facts: dict[str, Any] = {}
    limits = {"copy": (0, COPY_AT_MOST), "swapped": (0, SWAPPED_AT_MOST), "oracle": (ORACLE_AT_LEAST, 1)}
    for row, (low, high) in limits.items():
        if not rows.get(row):
            continue
        values = [each.numbers(rubric).get(want.number) for each in rows[row]]
        known = [value for value in values if value is not None]
        facts[row] = {"n": len(values), want.number: sum(known) / len(known) if known else None}
        if not known:
            wrong.append(f"{row} could not be read at all")
            continue
        share = (facts[row][want.number] - want.low) / (want.high - want.low)
        if not low <= share <= high:
            limit = f"at most {high:.0%}" if high < 1 else f"at least {low:.0%}"
            wrong.append(f"{MEANINGS[row]} got {share:.0%} of the scale of {want.number}, expected {limit}")
    if pairs:
        read = [pair for pair in pairs if pair.first and pair.second]
        same = sum(pair.first == pair.second for pair in read) / len(read) if read else None
        facts["order"] = {"n": len(pairs), "read": len(read), "same": same}
        if same is None or same < SAME_AT_LEAST:
            told = "none could be read" if same is None else f"{same:.0%}"
            wrong.append(
                f"of two pictures the same one won in both orders in too few pairs ({told}, expected at "
                f"least {SAME_AT_LEAST:.0%})"
            )
    usable = None if not facts else not wrong
    return {"judge": judge.label, "usable": usable, "because": wrong, **facts}


MEANINGS = {
    "copy": "doing nothing",
    "swapped": "an output under another item's instruction",
    "oracle": "the target itself",
}


def control_facts(rubric: Rubric, rows: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """The summaries of the control rows."""
    return {row: summary(rubric, judged) for row, judged in rows.items() if judged}


def _which(rubric: Rubric, item: Item, output: Stored, *, turned: bool) -> Ask:
    """The question which of output and source follows better; `turned`: the source is A."""
    (source, made), (_, same) = (
        _two(rubric, Shown(item=item, row="outputs", output=each)) for each in (output, item.sources[0])
    )
    pair = (same, made) if turned else (made, same)
    words = WHICH.format(instruction=_words(item))
    settings = {name: value for name, value in rubric.settings.items() if name != "response_format"}
    return Ask(parts=(words, source, *pair), settings=settings)


def _two(rubric: Rubric, each: Shown) -> tuple[Any, Any]:
    """Source and output as the rubric shows them."""
    return pictures_of(rubric, each, "source")[0], pictures_of(rubric, each, "output")[0]
