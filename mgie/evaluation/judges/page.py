"""A judged benchmark's figures as a table and a page, with how far to believe them below."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgie.evaluation.finished import RESULTS
from mgie.evaluation.report import as_markdown, title_of

NOT_USABLE = "This judge is not usable here"


def as_judged(facts: dict[str, Any]) -> str:
    """A row for the outputs, the controls and each group, a column for each number; below it what could not
    be told, how answers vary, whether the judge is usable, why the figures may not stand beside others."""
    names = list(facts["rows"]["outputs"]["numbers"])
    cells = [["row", "items", *names]]
    cells += [[row, *_numbers(found, names)] for row, found in facts["rows"].items()]
    for group, members in facts["groups"].items():
        if len(members) > 1:
            cells += [[f"{group} {member}", *_numbers(found, names)] for member, found in members.items()]
    lines = [as_markdown(cells), "", f"Rubric {facts['rubric']}; judge {facts['controls']['judge']}."]
    lines += _unread(facts)
    lines += _noise(facts)
    lines += _controls(facts["controls"])
    if len(facts["served_by"]) > 1:
        told = ", ".join(f"{name} ({count})" for name, count in sorted(facts["served_by"].items()))
        lines.append(f"Warning: answers came from several models: {told}.")
    if facts["shared_outputs"]:
        lines.append(f"Several items share an output's name: {', '.join(facts['shared_outputs'])}.")
    lines += [f"Not as published: {reason}." for reason in facts["unpinned"]]
    return "\n".join(lines)


def write_judged(folder: Path, facts: dict[str, Any], items: Sequence[dict[str, Any]]) -> None:
    """Write a judged result into a folder that is there: numbers, what was said of each picture, page."""
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / RESULTS).write_text(whole, encoding="utf-8", errors="backslashreplace")
    rows = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (folder / "items.jsonl").write_text("".join(rows), encoding="utf-8", errors="backslashreplace")
    title = title_of(f"{facts['model']} by {facts['rubric']}")
    page = f"# {title}\n\n{as_judged(facts)}\n"
    (folder / "report.md").write_text(page, encoding="utf-8", errors="backslashreplace")


def _numbers(found: dict[str, Any], names: Sequence[str]) -> list[str]:
    shown = []
    for name in names:
        value = found["numbers"][name]
        lacking = found.get("without", {}).get(name)
        text = "not told" if name in found.get("withheld", ()) else "" if value is None else f"{value:.3f}"
        shown.append(f"{text} (without {lacking})" if lacking else text)
    return [str(found["n"]), *shown]


def _unread(facts: dict[str, Any]) -> list[str]:
    counted = dict(facts["counted"])
    total, again = counted.pop("answers"), counted.pop("asked_again")
    told = [f"{count} {status}" for status, count in counted.items()]
    lines = [f"Of {total} answers {', '.join(told)}; they count in no number."] if told else []
    lines += [f"{again} questions were asked more than once."] if again else []
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
