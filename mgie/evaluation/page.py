"""Reports of one or several systems -> one HTML page with pictures, opened from a disk.

The page asks no host for anything, and its own policy forbids it to. What models and users said is escaped.
"""

import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mgie.evaluation.figures import figure
from mgie.evaluation.finished import Key, Report

POLICY = (
    "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""What a browser lets the page do."""


def write_page(path: Path, runs: Sequence[Report], keys: Sequence[Key], *, title: str, head: str) -> None:
    """Write the page of these items, in this order. Pictures lie in the page's folder; `head` is HTML that
    stands above them."""
    cards = "".join(_card(runs, key) for key in keys)
    several = ' class="several"' if len(runs) > 1 else ""
    shown = head + _controls(runs, keys) + f"<main{several}>{cards}</main>"
    path.write_text(document(title, shown, "report"), encoding="utf-8")


def document(title: str, body: str, look: str) -> str:
    """A whole page that looks and acts as the files of that name in mgie/evaluation/pages/ say."""
    folder = files("mgie.evaluation") / "pages"
    style, script = ((folder / f"{look}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(title)}</title><style>{style}</style></head>\n"
        f"<body><h1>{text(title)}</h1>{body}<script>{script}</script></body></html>\n"
    )


def text(said: Any) -> str:
    """Anybody's words as HTML, in elements and in attributes; what UTF-8 cannot hold becomes its code."""
    return html.escape(str(said).encode("utf-8", "backslashreplace").decode("utf-8"))


def html_table(cells: Sequence[Sequence[str]], *, caption: str = "", whole: int | None = None) -> str:
    """Rows as a table, headings first; row number `whole` is the one of all items."""
    head, *rows = [[text(cell) for cell in row] for row in cells]
    above = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    below = "".join(
        ('<tr class="all">' if place == whole else "<tr>")
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for place, row in enumerate(rows)
    )
    named = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="wide" tabindex="0"><table>{named}<tr>{above}</tr>{below}</table></div>'


def _controls(runs: Sequence[Report], keys: Sequence[Key]) -> str:
    """What cards can be chosen and ordered by; a choice that makes no difference is not offered."""
    rows = [run.items[key] for run in runs for key in keys]
    kinds, views = sorted({row["kind"] for row in rows}), sorted({view for view, _ in keys})
    fields = []
    if len(kinds) > 1:
        fields.append(
            _select("kind", "Kind", [("", "all"), *((f"={kind}", kind or "any") for kind in kinds)])
        )
    if len(views) > 1:
        fields.append(_select("view", "View", [("", "all"), *((f"={view}", view) for view in views)]))
    if any(row.get("right") is not None for row in rows):
        verdicts = [("", "all"), ("any", "wrong" if len(runs) == 1 else "wrong by any")]
        if len(runs) > 1:
            verdicts += [(str(place), f"wrong: {run.name}") for place, run in enumerate(runs)]
            verdicts.append(("disagree", "verdicts disagree"))
        fields.append(
            _select("wrong", "Verdict", [*verdicts, ("none", "right" if len(runs) == 1 else "right by all")])
        )
    orders = [("", "order of the suite")]
    for name in sorted({name for row in rows for name in row["scores"]} - {"copy_l1"}):
        shown = figure(name).heading
        if len(runs) == 1:
            orders += [
                (json.dumps([name, 1]), f"{shown}, low first"),
                (json.dumps([name, -1]), f"{shown}, high first"),
            ]
        else:
            orders.append((json.dumps([name, -1]), f"difference in {shown}"))
    fields.append(_select("order", "Order", orders))
    fields.append('<label>Words<input name="words" type="search" autocomplete="off"></label>')
    count = f'<output aria-live="polite">{len(keys)} items</output>'
    return f'<form hidden aria-label="Choose and order items">{"".join(fields)}{count}</form>'


def _select(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    inside = "".join(f'<option value="{text(value)}">{text(shown)}</option>' for value, shown in options)
    return f'<label>{text(label)}<select name="{name}">{inside}</select></label>'


def _card(runs: Sequence[Report], key: Key) -> str:
    """One item: what was asked, the pictures, what each system said and got."""
    rows = [run.items[key] for run in runs]
    verdicts = [row.get("right") for row in rows]
    known = [right for right in verdicts if right is not None]
    facts = {
        "kind": rows[0]["kind"], "view": key[0],
        "wrong": json.dumps([None if right is None else int(not right) for right in verdicts]),
        "disagree": "yes" if len(set(known)) > 1 else "no",
        "spread": json.dumps(_spread(rows)),
    }  # fmt: skip
    data = " ".join(f'data-{name}="{text(value)}"' for name, value in facts.items())
    about = " · ".join(part for part in (key[0], rows[0]["kind"], key[1]) if part)
    roles = [("source", "before", rows[0]), *(("output", run.name, row) for run, row in zip(runs, rows))]
    if len(runs) == 1:
        roles[1] = ("output", "after", rows[0])
    roles.append(("target", "target", rows[0]))
    shown = [_picture(row["pictures"].get(role), name, rows[0]) for role, name, row in roles]
    pictures = f'<div class="pictures">{"".join(shown)}</div>' if any(shown) else ""
    told = "".join(_told(row, "" if len(runs) == 1 else run.name) for run, row in zip(runs, rows))
    return (
        f"<article {data}><h3>{text(rows[0]['instruction'] or key[1])}</h3>{pictures}<dl>{told}</dl>"
        f'<p class="about">{text(about)}</p></article>'
    )


def _spread(rows: Sequence[Any]) -> dict[str, float]:
    """Of each score its number, or of several systems how far their numbers lie apart."""
    found = {}
    for name in rows[0]["scores"]:
        values = [row["scores"].get(name, math.nan) for row in rows]
        if name != "copy_l1" and all(map(math.isfinite, values)):
            found[name] = values[0] if len(values) == 1 else max(values) - min(values)
    return found


def _picture(path: str | None, name: str, row: Any) -> str:
    if path is None:
        return ""
    alt = f"{name}: {row['instruction']}" if row["instruction"] else name
    return (
        f'<figure><a href="{text(path)}"><img src="{text(path)}" alt="{text(alt)}" loading="lazy"></a>'
        f"<figcaption>{text(name)}</figcaption></figure>"
    )


def _told(row: Any, name: str) -> str:
    """What one system said, how it was judged, what it scored."""
    said = text(row["said"]) or "<i>nothing</i>"
    parts = [f"<p>said: {said}</p>"] if row["said"] or row["expected"] else []
    if row.get("right") is not None:
        word = "right" if row["right"] else "wrong"
        parts.append(f'<p class="{word}">{word}: {text(row.get("why") or "")}</p>')
    scores = [
        f"{figure(each).heading} {value:.4g}" for each, value in row["scores"].items() if each != "copy_l1"
    ]
    parts += [f'<p class="numbers">{text(" · ".join(scores))}</p>'] if scores else []
    return (f"<dt>{text(name)}</dt>" if name else "<dt hidden>the system</dt>") + f"<dd>{''.join(parts)}</dd>"
