"""Figures of a controlled benchmark as a folder: numbers, a table, a page with pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mgie.evaluation.figures import figure
from mgie.evaluation.finished import RESULTS, read_report
from mgie.evaluation.page import html_table, text, write_page
from mgie.evaluation.report import FEW, PAGED, as_markdown, chosen_places, keep_pictures, printable, title_of


def as_controlled(facts: Mapping[str, Any]) -> str:
    """The figures as Markdown; below them the warning where there are few."""
    table = as_markdown(_cells(facts))
    return "\n\n".join([table, *(f"Warning: {each}" for each in _warnings(facts))])


def write_controlled(
    folder: Path,
    facts: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    *,
    pictures: Callable[[str], Mapping[str, Image]],
) -> None:
    """Write the result into a folder that is there; `pictures` gives what the page shows of a task."""
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / RESULTS).write_text(whole, encoding="utf-8", errors="backslashreplace")
    shown = set(chosen_places([line["kind"] for line in lines], PAGED))
    with (folder / "items.jsonl").open("w", encoding="utf-8", errors="backslashreplace") as file:
        for place, line in enumerate(lines):
            names = keep_pictures(folder, place, pictures(line["key"])) if place in shown else {}
            file.write(json.dumps({**line, "pictures": names}, ensure_ascii=False) + "\n")
    title = printable(f"{facts['model']} on {facts['suite']}: {facts['n']} pictures")
    page = f"# {title_of(title)}\n\n{as_controlled(facts)}\n"
    (folder / "report.md").write_text(page, encoding="utf-8", errors="backslashreplace")
    head = html_table(_cells(facts))
    head += "".join(f'<p class="wrong">Warning: {text(each)}</p>' for each in _warnings(facts))
    head += f"<p>{len(shown)} of {facts['n']} pictures, chosen by their place in the suite.</p>"
    keys = [("", lines[place]["key"]) for place in sorted(shown)]
    write_page(
        folder / "report.html", [read_report(folder, "after")], keys, title=title, head=head
    )  # fmt: skip


def _cells(facts: Mapping[str, Any]) -> list[list[str]]:
    """Rows as they are read, headings first: outputs, their kinds, then what they are held against."""
    rows = {
        **facts["rows"],
        **{f"outputs, {printable(kind)}": each for kind, each in facts["by_kind"].items()},
    }
    names = [name for name in facts["rows"]["outputs"] if name != "n"]
    cells = [["row", "pictures", *(figure(name).heading for name in names)]]
    for row, found in rows.items():
        values = [found.get(name) for name in names]
        shown = [
            "" if value is None else figure(name).form.format(value) for name, value in zip(names, values)
        ]
        cells.append([row, str(found["n"]), *shown])
    return cells


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    few = facts["n"] < FEW
    return [f"n is {facts['n']}: figures from fewer than {FEW} pictures mean little."] if few else []
