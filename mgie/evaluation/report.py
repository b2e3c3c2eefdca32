"""Results -> a folder: numbers, a table, a page, and a sheet of pictures."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from mgie.evaluation.figures import FIGURES
from mgie.evaluation.finished import RESULTS, read_report
from mgie.evaluation.page import html_table, text, write_page

REPORT = "report"
"""Kind of the folder."""
TILE = 128
"""Side of a picture on the sheet."""
SHOWN = 24
"""How many items the sheet shows; they are chosen by their place in the suite, never by their result."""
PAGED = 200
"""How many items the page shows, and keeps pictures of; chosen in the same way."""
LARGEST = 512
"""Longest side in pixels of a published benchmark's picture on a page."""
LICENCE = "The page holds pictures of the benchmark, whose licence says who may be shown them."
ROLES = ("source", "output", "target")
"""The pictures of an item."""
FEW = 20
"""Below this number of pairs a report warns that its figures mean little."""

INK, PALE, GOOD, BAD = (25, 25, 28), (110, 110, 118), (20, 120, 60), (180, 40, 40)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One edited picture with all that is known of it."""

    key: str
    kind: str
    instruction: str
    expected: str
    """What should be said. Empty: not known."""
    said: str
    """What the model said."""
    forced: bool
    """The model never called for the edit by itself."""
    source: Image.Image | None = None
    """Pictures are there where they are shown."""
    output: Image.Image | None = None
    target: Image.Image | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """What could be measured."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """Metric -> what is to be known of its number, or why there is none."""
    cluster: str = ""
    """Items of one cluster are no independent samples: the session, where there is one, else the picture that
    they begin with. Empty: by the pixels of `source`."""
    file: str = ""
    """Where the output lies, in the folder of the evaluation."""
    caption: str = ""
    """What the target shows, in words, where the data set has it."""
    right: bool | None = None
    """The judge's verdict. None: nobody judges."""
    why: str = ""
    control: str = ""
    """The instruction of another pair, given to the same picture."""
    control_right: bool | None = None
    """Whether this pair's own edit came out all the same."""

    def facts(self) -> dict[str, Any]:
        """All but the pictures."""
        told = {name: getattr(self, name) for name in self.__slots__ if name not in ROLES}
        return told | {"cluster": self.cluster or (fingerprint(self.source) if self.source else "")}


def write_report(
    folder: Path,
    facts: dict[str, Any],
    items: Sequence[Item],
    *,
    pictures: Callable[[Item], Item] = lambda item: item,
) -> None:
    """Write all forms of the report into a folder that is there; `pictures` gives an item that is shown its
    pictures."""
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / RESULTS).write_text(whole, encoding="utf-8", errors="backslashreplace")
    (folder / "pictures").mkdir()
    shown = {item.key: index for index, item in enumerate(chosen(items, PAGED))}
    first = {item.key for item in chosen(items, SHOWN)}
    on_sheet = []
    with (folder / "items.jsonl").open("w", encoding="utf-8") as lines:
        for item in items:
            names = {}
            if item.key in shown:
                seen = pictures(item)
                on_sheet += [seen] if item.key in first else []
                for role, picture in ((role, getattr(seen, role)) for role in ROLES):
                    if picture:
                        names[role] = f"pictures/{shown[item.key]:04d}_{role}.png"
                        picture.convert("RGB").save(folder / names[role])
            lines.write(json.dumps(item.facts() | {"pictures": names}, ensure_ascii=False) + "\n")
    page = f"# {markdown(_title(facts))}\n\n{as_table(facts)}\n"
    (folder / "report.md").write_text(page, encoding="utf-8")
    sheet(on_sheet, _title(facts)).save(folder / "sheet.png")
    keys, head = [("", key) for key in shown], _head(facts, len(shown))
    page_of = [read_report(folder, "after")]
    write_page(folder / "report.html", page_of, keys, title=_title(facts), head=head)


def fingerprint(picture: Image.Image) -> str:
    """Equal for equal pictures: the first 16 digits of the SHA-256 of size and pixels."""
    seen = picture.convert("RGB")
    return hashlib.sha256(repr(seen.size).encode() + seen.tobytes()).hexdigest()[:16]


def chosen(items: Sequence[Item], count: int) -> list[Item]:
    """The first item of each kind, then the first of the others; in the order of the suite."""
    return [items[place] for place in chosen_places([item.kind for item in items], count)]


def chosen_places(kinds: Sequence[str], count: int) -> list[int]:
    """The places of the first item of each kind, then of the first of the others; in order."""
    first = {kind: place for place, kind in reversed(list(enumerate(kinds)))}
    places = sorted(first.values())
    others = [place for place in range(len(kinds)) if place not in set(places)]
    return sorted((places + others)[:count])


def keep_pictures(folder: Path, number: int, pictures: Mapping[str, Image.Image]) -> dict[str, str]:
    """Keep an item's pictures beside the page, at most `LARGEST` pixels a side; role -> name."""
    (folder / "pictures").mkdir(exist_ok=True)
    names = {}
    for role, picture in pictures.items():
        names[role] = f"pictures/{number:04d}_{role}.png"
        shown = picture.convert("RGB")
        shown.thumbnail((LARGEST, LARGEST))
        shown.save(folder / names[role])
    return names


def as_table(facts: dict[str, Any]) -> str:
    """The figures as a Markdown table: a row for each kind of edit, one for all, and those of doing nothing
    and of the target, where they are known; below it the warning."""
    table = as_markdown(_cells(facts))
    return f"{table}\n\nWarning: {facts['warning']}" if "warning" in facts else table


def as_published(facts: dict[str, Any]) -> str:
    """The figures of a published protocol as a Markdown table: a row for each view and each row of the
    result, a column for each metric, with its own n where it is of fewer items; below it the protocol."""
    lines = [as_markdown(_published_cells(facts)), "", f"Protocol {facts['protocol']}."]
    lines += [f"Not known to be as published: {reason}." for reason in facts["unpinned"]]
    return "\n".join([*lines, *printed_lines(facts)])


def printed_lines(facts: Mapping[str, Any]) -> list[str]:
    """What others printed, as Markdown below one's own figures. Empty where a protocol knows of nothing."""
    cells = printed_cells(facts)
    return ["", markdown(printed_caption(facts)), "", as_markdown(cells)] if cells else []


def printed_caption(facts: Mapping[str, Any]) -> str:
    """What stands above it."""
    open_questions = "; the figures above are not known to stand beside them" if facts["unpinned"] else ""
    return f"Printed elsewhere, not measured here ({facts['printed']['source']}){open_questions}:"


def printed_cells(facts: Mapping[str, Any]) -> list[list[str]]:
    """A row for each view and system."""
    told = facts.get("printed")
    if not told:
        return []
    rows = [
        [view, system, *("" if value is None else f"{value:g}" for value in values)]
        for view, systems in told["figures"].items()
        for system, values in systems.items()
    ]
    return [["view", "system", *told["columns"]], *rows]


def _published_cells(facts: dict[str, Any]) -> list[list[str]]:
    metrics = list(facts["metrics"])
    cells = [["view", "row", "items", *metrics]]
    for row, views in facts["rows"].items():
        for view, found in views.items():
            own = found.get("n_of", {})
            shown = ["" if found[m] is None else f"{found[m]:.4f}" for m in metrics]
            shown = [f"{text} (n {own[m]})" if m in own else text for m, text in zip(metrics, shown)]
            cells.append([view, row, str(found["n"]), *shown])
    return [cells[0], *sorted(cells[1:], key=lambda row: row[0])]


def write_published(folder: Path, facts: dict[str, Any], items: Sequence[dict[str, Any]]) -> None:
    """Write the result of a published protocol into a folder that is there: numbers, items, page."""
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / RESULTS).write_text(whole, encoding="utf-8", errors="backslashreplace")
    rows = sorted(items, key=lambda item: (item["view"], item["key"], item["row"]))
    lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in rows)
    (folder / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    title = printable(f"{facts['model']} on {facts['protocol']}")
    page = f"# {markdown(title)}\n\n{as_published(facts)}\n"
    (folder / "report.md").write_text(page, encoding="utf-8")
    head = html_table(_published_cells(facts), caption=f"Protocol {facts['protocol']}")
    head += "".join(
        f'<p class="wrong">Not known to be as published: {text(reason)}.</p>' for reason in facts["unpinned"]
    )
    if cells := printed_cells(facts):
        head += html_table(cells, caption=printed_caption(facts))
    told = read_report(folder, "after")
    keys = [key for key, row in told.items.items() if row["pictures"]]
    head += f"<p>{len(keys)} of {len(told.items)} outputs. {LICENCE}</p>"
    write_page(folder / "report.html", [told], keys, title=title, head=head)


def as_markdown(cells: list[list[str]]) -> str:
    """Cells as a Markdown table, the first column to the left."""
    cells = [[markdown(cell) for cell in row] for row in cells]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _cells(facts: dict[str, Any]) -> list[list[str]]:
    """The rows of the table as they are read, the headings first."""
    rows = [*facts["by_kind"].items(), ("all", facts), *facts.get("baselines", {}).items()]
    columns = ["n", *(name for name in facts if name in FIGURES and name != "n")]
    cells = [["kind", *(FIGURES[name].heading for name in columns)]]
    for kind, row in rows:
        shown = [
            FIGURES[name].form.format(row[name]) if row.get(name) is not None else "" for name in columns
        ]
        cells.append([printable(kind) or "any", *shown])
    return cells


def title_of(text: str) -> str:
    """A text as the heading of a page in Markdown."""
    return markdown(printable(text))


def printable(text: str) -> str:
    """The text on one line, with a space for each letter that moves a cursor or cannot be written."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def markdown(text: str) -> str:
    """The text with a backslash before each letter that Markdown would take for its own."""
    return re.sub(r"([\\`*\[\]<>|~&])", r"\\\1", text)


def sheet(items: Sequence[Item], title: str = "", *, columns: int = 3) -> Image.Image:
    """Before, after and target side by side, with what was asked, what was said and the verdict below."""
    big, bold, plain = (ImageFont.load_default(size) for size in (18, 14, 13))
    gap, line, top = 10, 17, 44
    wide = 3 * TILE + 2 * 4
    texts = [_texts(item, wide, bold, plain) for item in items]
    columns = min(columns, max(len(items), 1))
    rows = [range(start, min(start + columns, len(items))) for start in range(0, len(items), columns)]
    heights = [TILE + 22 + line * max(len(texts[place]) for place in row) + 2 * gap for row in rows]

    page = Image.new("RGB", (columns * (wide + 2 * gap) + gap, top + sum(heights) + gap), "white")
    pen = ImageDraw.Draw(page)
    pen.text((2 * gap, 14), title, INK, big)
    y = top
    for row, height in zip(rows, heights):
        for column, place in enumerate(row):
            x = 2 * gap + column * (wide + 2 * gap)
            pictures = (items[place].source, items[place].output, items[place].target)
            for index, (name, picture) in enumerate(zip(("before", "after", "target"), pictures)):
                left = x + index * (TILE + 4)
                pen.text((left, y), name, PALE, plain)
                page.paste(_tile(picture), (left, y + 18))
            for index, (words, colour, font) in enumerate(texts[place]):
                pen.text((x, y + 22 + TILE + index * line), words, colour, font)
        y += height
    return page


def _texts(item: Item, wide: int, bold: Any, plain: Any) -> list[tuple[str, tuple[int, int, int], Any]]:
    parts = [(item.instruction, INK, bold), (f"said: {item.said or '(nothing)'}", PALE, plain)]
    if item.right is not None:
        parts.append(
            (("right: " if item.right else "wrong: ") + item.why, GOOD if item.right else BAD, plain)
        )
    return [(words, colour, font) for text, colour, font in parts for words in _wrapped(text, wide, font)]


def _wrapped(text: str, wide: int, font: Any, most: int = 3) -> list[str]:
    """The text in lines that fit, `most` at most; what is left out shows as three dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= wide:
            lines[-1] = longer
            continue
        while font.getlength(word) > wide:
            word = word[:-2] + "…"
        lines.append(word)
    lines = [line for line in lines if line] or [""]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]


def _tile(picture: Image.Image | None) -> Image.Image:
    """The picture at TILE, whole; small ones are enlarged by whole pixels, so that each pixel is seen. White
    where a new picture has nothing before it."""
    if picture is None:
        return Image.new("RGB", (TILE, TILE), "white")
    picture = picture.convert("RGB")
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (TILE, TILE), (240, 240, 240))
    tile.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return tile


def _head(facts: dict[str, Any], shown: int) -> str:
    """What stands above the pictures: the figures, the warning, how many pictures there are."""
    table = html_table(_cells(facts), whole=len(facts["by_kind"]))
    if "warning" in facts:
        table += f'<p class="wrong">Warning: {text(facts["warning"])}</p>'
    return f"{table}<p>{shown} of {facts['n']} items, chosen by their place in the suite.</p>"


def _title(facts: dict[str, Any]) -> str:
    return printable(f"{facts['model']} on {facts['suite']}: {facts['n']} items, seed {facts['seed']}")
