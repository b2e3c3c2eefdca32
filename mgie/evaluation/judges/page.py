"""A judged benchmark's figures as a table and a page, with how far to believe them below."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgie.evaluation.finished import RESULTS, read_report
from mgie.evaluation.judges.asking import Outcome
from mgie.evaluation.judges.controls import ORACLE_AT_LEAST
from mgie.evaluation.judges.data import Item
from mgie.evaluation.judges.formulas import weight
from mgie.evaluation.judges.results import Judged
from mgie.evaluation.judges.rubric import Following, Rubric
from mgie.evaluation.page import html_table, text, write_page
from mgie.evaluation.report import (
    LICENCE,
    as_markdown,
    markdown,
    printable,
    printed_caption,
    printed_cells,
    printed_lines,
)

NOT_USABLE = "This judge is not usable here"
WORDS = 300
"""Characters of an answer that a page shows."""


def as_judged(facts: dict[str, Any]) -> str:
    """A row for the outputs, the controls and each group, a column for each number; below it what could not
    be told, how answers vary, whether the judge is usable, why the figures may not stand beside others."""
    return "\n".join([as_markdown(_cells(facts)), "", *_below(facts), *printed_lines(facts)])


def _cells(facts: dict[str, Any]) -> list[list[str]]:
    names = list(facts["rows"]["outputs"]["numbers"])
    cells = [["row", "items", *names]]
    cells += [[row, *_numbers(found, names)] for row, found in facts["rows"].items()]
    for group, members in facts["groups"].items():
        if len(members) > 1:
            cells += [[f"{group} {member}", *_numbers(found, names)] for member, found in members.items()]
    return cells


def _below(facts: dict[str, Any]) -> list[str]:
    lines = [f"Rubric {facts['rubric']}; judge {facts['controls']['judge']}."]
    lines += _unread(facts)
    lines += _noise(facts)
    lines += _controls(facts["controls"])
    if len(facts["served_by"]) > 1:
        told = ", ".join(f"{name} ({count})" for name, count in sorted(facts["served_by"].items()))
        lines.append(f"Warning: answers came from several models: {told}.")
    if facts["shared_outputs"]:
        lines.append(f"Several items share an output's name: {', '.join(facts['shared_outputs'])}.")
    return lines + [f"Not as published: {reason}." for reason in facts["unpinned"]]


def write_judged(folder: Path, facts: dict[str, Any], items: Sequence[dict[str, Any]]) -> None:
    """Write a judged result into a folder that is there: numbers, what was said of each picture, page. The
    pictures that items name lie there already."""
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / RESULTS).write_text(whole, encoding="utf-8", errors="backslashreplace")
    rows = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (folder / "items.jsonl").write_text("".join(rows), encoding="utf-8", errors="backslashreplace")
    title = printable(f"{facts['model']} by {facts['rubric']}")
    page = f"# {markdown(title)}\n\n{as_judged(facts)}\n"
    (folder / "report.md").write_text(page, encoding="utf-8", errors="backslashreplace")
    told = read_report(folder, "after")
    keys = [key for key, row in told.items.items() if row["pictures"]]
    head = html_table(_cells(facts), whole=0) + "".join(_paragraph(line) for line in _below(facts))
    if cells := printed_cells(facts):
        head += html_table(cells, caption=printed_caption(facts))
    head += f"<p>{len(keys)} of {len(told.items)} outputs. {LICENCE}</p>"
    write_page(folder / "report.html", [told], keys, title=title, head=head)


def lines(rubric: Rubric, judged: Sequence[Judged], items: Sequence[Item]) -> list[dict[str, Any]]:
    """Each picture as it is written: its numbers, the scores of each repeat, the judge's words. An output is
    `right` where it got as much for following as a usable judge gives the target itself."""
    clusters = {item.key: hashlib.sha256(item.sources[0].read_bytes()).hexdigest()[:16] for item in items}
    return [
        {
            "key": each.key, "kind": each.kind, "row": each.row, "instruction": each.instruction,
            "cluster": clusters[each.key], **_numbered(rubric, each), "by_repeat": each.repeats(),
            "answers": [_told(answer) for answer in each.answers],
        }
        for each in judged
    ]  # fmt: skip


def _numbered(rubric: Rubric, judged: Judged) -> dict[str, Any]:
    """Its numbers, of how many scores each of them is where those are pooled, and the verdict."""
    found, repeats = judged.numbers(rubric), judged.repeats()
    pooled = {name: weight(rubric.numbers[name], repeats) for name in found}
    told = {
        "scores": {name: value for name, value in found.items() if value is not None},
        "of": {name: count for name, count in pooled.items() if count > 1},
    }
    want = rubric.following
    value = found.get(want.number)
    if value is None:
        return told
    words = [f"{answer.question.name}: {answer.text[:WORDS]}" for answer in judged.answers]
    given = f"{want.number} {value:.4g} of {want.low:g} to {want.high:g}"
    return told | {"right": followed(want, value), "why": printable(" · ".join([given, *words[:3]]))}


def followed(want: Following, value: float) -> bool:
    """Whether so much says that the instruction was followed."""
    return (value - want.low) / (want.high - want.low) >= ORACLE_AT_LEAST


def _told(answer: Outcome) -> Mapping[str, Any]:
    told = {"ask": answer.question.name, "repeat": answer.question.repeat, "status": answer.status}
    return told | {"attempts": answer.attempts, "text": answer.text}


def _paragraph(line: str) -> str:
    return f'<p class="wrong">{text(line)}</p>' if line.startswith(NOT_USABLE) else f"<p>{text(line)}</p>"


def _numbers(found: dict[str, Any], names: Sequence[str]) -> list[str]:
    shown = []
    for name in names:
        value = found["numbers"][name]
        lacking = found.get("without", {}).get(name)
        told = "not told" if name in found.get("withheld", ()) else "" if value is None else f"{value:.3f}"
        shown.append(f"{told} (without {lacking})" if lacking else told)
    return [str(found["n"]), *shown]


def _unread(facts: dict[str, Any]) -> list[str]:
    counted = dict(facts["counted"])
    total, again, guessed = (counted.pop(name, 0) for name in ("answers", "asked_again", "guessed"))
    told = [f"{count} {status}" for status, count in counted.items()]
    lines = [f"Of {total} answers {', '.join(told)}; they count in no number."] if told else []
    lines += [f"{again} questions were asked more than once."] if again else []
    if guessed:
        lines.append(
            f"Of {total} answers {guessed} could not be read and count as numbers drawn at random, as in the "
            "published program."
        )
    if withheld := facts["rows"]["outputs"].get("withheld"):
        lines.append(f"Not told, for too many items lack it: {', '.join(withheld)}.")
    return lines


def _noise(facts: dict[str, Any]) -> list[str]:
    if facts["steady"]:
        return ["This judge answers the same each time: how sure it is, repeats cannot tell."]
    found = facts["noise"]
    if not found:
        return [
            "How far answers vary by themselves is unknown: each question was asked once (--judge_repeats 3)."
        ]
    scores = [
        f"{name} {each['deviation']:.2f} ({each['far_apart']:.0%} of items more than 1 apart)"
        for name, each in found["scores"].items()
    ]
    numbers = [
        f"{name} {each['mean']:.3f} ± {each['deviation']:.3f}" for name, each in found["numbers"].items()
    ]
    return [
        f"By {found['repeats']} repeats: deviation within an item {', '.join(scores) or 'unknown'}; of the "
        f"whole {', '.join(numbers) or 'unknown'}."
    ]


def _controls(found: dict[str, Any]) -> list[str]:
    if found["usable"] is None:
        return ["Whether this judge is usable was not looked at (--judge_controls 24)."]
    if found["usable"]:
        return ["The controls found nothing against this judge."]
    return [f"{NOT_USABLE}: {'; '.join(found['because'])}."]
