"""What people answered, told; beside it what the numbers say of the same systems."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgie.data.files import MALFORMED
from mgie.evaluation.comparing import report as comparison
from mgie.evaluation.comparing.ranking import DRAWS as RANK_DRAWS
from mgie.evaluation.comparing.ranking import as_rows
from mgie.evaluation.page import document, html_table, text
from mgie.evaluation.people.ab import QUESTIONS
from mgie.evaluation.report import as_markdown, markdown, printable

ANSWERS = "answers.json"
"""In the folder of an outcome: its figures."""
Tables = list[tuple[str, list[list[str]]]]


def read_numbers(folder: Path) -> dict[str, Any] | None:
    """The figures of the comparison that wrote a blind page; None where they are not there any more."""
    try:
        found = json.loads((folder / comparison.COMPARED).read_text(encoding="utf-8"))
        comparison.tables(found)
    except MALFORMED:
        return None
    return found


def write_outcome(folder: Path, facts: Mapping[str, Any], numbers: Mapping[str, dict[str, Any]]) -> None:
    """Write the outcome into a folder that is there; `numbers` are figures of comparisons, by their name."""
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / ANSWERS).write_text(whole, encoding="utf-8", errors="backslashreplace")
    systems = list(dict.fromkeys(name for page in facts["pages"] for name in page["systems"]))
    title = f"{', '.join(map(printable, systems))}, as people see them"
    beside = [
        (f"By numbers, {name}. {caption}", cells)
        for name, each in numbers.items()
        for caption, cells in comparison.tables(each)
    ]
    told = [f"{markdown(caption)}\n\n{as_markdown(cells)}" for caption, cells in beside]
    page = "\n\n".join([f"# {markdown(title)}", as_text(facts), *told])
    (folder / "report.md").write_text(page + "\n", encoding="utf-8", errors="backslashreplace")
    body = "".join(html_table(cells, caption=caption) for caption, cells in tables(facts))
    body += "".join(f"<p>{text(each)}</p>" for each in _how(facts))
    body += "".join(html_table(cells, caption=caption) for caption, cells in beside)
    (folder / "report.html").write_text(document(title, body, "report"), encoding="utf-8")


def as_text(facts: Mapping[str, Any]) -> str:
    """The outcome as Markdown."""
    parts = [f"{markdown(caption)}\n\n{as_markdown(cells)}" for caption, cells in tables(facts)]
    return "\n\n".join([*parts, *map(markdown, _how(facts))])


def tables(facts: Mapping[str, Any]) -> Tables:
    """Of each page a table of questions and one of raters, headings first, each with what it is of; of
    several pages the order of all systems, for each question and all together."""
    found: Tables = []
    for page in facts["pages"]:
        named = " and ".join(map(printable, page["systems"]))
        found += zip((f"{named}: questions", f"{named}: raters"), _page(page))
    for question, ranking in facts.get("ranking", {}).items():
        found.append((f"Order by {QUESTIONS.get(question, question)}", as_rows(ranking)))
    return found


def _page(facts: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    first, second = map(printable, facts["systems"])
    cells = [["question", "answers", "items", first, "tied", "both bad", second, f"win rate of {first}",
              "Krippendorff", "Cohen", "Fleiss"]]  # fmt: skip
    for name, each in facts["questions"].items():
        rate, agreed = each.get("win_rate"), each.get("agreement", {})
        shown = ""
        if rate:
            span = "" if rate["low"] is None else f" ({rate['low']:.1%} to {rate['high']:.1%})"
            shown = f"{rate['value']:.1%}{span}"
        kappas = [_number(agreed.get(kind)) for kind in ("krippendorff", "cohen", "fleiss")]
        counts = [str(each[kind]) for kind in ("n", "items", "won", "tied", "both_bad", "lost")]
        cells.append([QUESTIONS[name], *counts, shown, *kappas])
    people = [["rater", "answers", "attention", "consistent", "left", "right", "p of the sides", "counts"]]
    for name, each in facts["raters"].items():
        shares = ["" if each[kind] is None else f"{each[kind]:.0%}" for kind in ("attention", "consistent")]
        sides = [str(each["left"]), str(each["right"]), f"{each['side_p']:.4f}"]
        people.append(
            [printable(name), str(each["answers"]), *shares, *sides, "yes" if each["counts"] else "no"]
        )
    return cells, people


def _how(facts: Mapping[str, Any]) -> list[str]:
    """What a reader has to know."""
    notes = [f"Note: {printable(each)}." for page in facts["pages"] for each in page["warnings"]]
    how = (
        f"In parentheses: 95 % intervals of {facts['draws']} draws of clusters of items, with all that "
        f"raters said of them, seed {facts['seed']}. A tie and both bad are half a win."
    )
    if "ranking" in facts:
        how += (
            f" Elo: strengths by Davidson's model of ties (1970), 1000 in the mean, {RANK_DRAWS} draws; both "
            "bad is a tie."
        )
    return [*notes, how]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
