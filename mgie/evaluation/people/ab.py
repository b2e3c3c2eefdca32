"""Two reports -> a page on which people choose between outputs that bear no names.

The page is a folder that is handed out: pictures under drawn names, sides and order drawn from a seed, no
name of a system in any byte. Which output was whose is in a key that stays with the report. Some tasks come a
second time with their sides swapped, and in some anybody who looks is of one mind: raters are held to both.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

from PIL import Image

from mgie.errors import DataError
from mgie.evaluation.finished import Key, Report
from mgie.evaluation.page import document, text

AB = "blind comparison"
"""Kind of the folder that is handed out."""
KEY = "key.json"
"""In the folder of the comparison: which output was whose."""
QUESTIONS = {
    "follows": "Which follows the instruction better?",
    "keeps": "Which keeps the rest of the picture better?",
    "looks": "Which looks better?",
    "target": "Which is closer to the target?",
    "overall": "Which is better, all in all?",
}
Asked = Literal["own", "mgie"]
"""What a page asks."""
ASKED: dict[str, tuple[str, ...]] = {
    "own": ("follows", "keeps", "looks"),
    "mgie": ("follows", "target", "overall"),
}
"""Which questions those are. MGIE (Fu et al. 2024) had people rank edits by following, relevance to the
target and quality over all, of 100 items, three people each."""
LOOKED = {"own": "keeps", "mgie": "target"}
"""Which of them tells, where the untouched picture stands beside another one, whether a rater looks."""
CHOICES = {"left": "left", "right": "right", "tie": "equally good", "bad": "both bad"}
REPEATED, ATTENTION = 0.10, 0.05
"""Shares of tasks that come twice, and of those that show whether a rater looks."""
TITLE = "Which is better?"


def write_ab(
    folder: Path,
    runs: Sequence[Report],
    keys: Sequence[Key],
    *,
    count: int,
    seed: int,
    questions: Asked = "own",
) -> dict[str, Any]:
    """Write the page of two reports into a folder that is there; the key of it. Raises DataError where the
    reports keep no pictures, or the systems do not differ."""
    first, second = runs
    roles = ("source", "target") if "target" in ASKED[questions] else ("source",)
    seen = [
        key
        for key in keys
        if all(run.picture(key, "output") for run in runs) and all(first.picture(key, role) for role in roles)
    ]
    if not seen:
        shown = f"pictures of {' and '.join(roles)}" if len(roles) > 1 else "pictures"
        raise DataError(
            f"{first.folder} and {second.folder} keep no {shown} of common items: expected reports with "
            f"{shown}; people cannot choose without."
        )
    equal = [key for key in seen if _pixels(first, key, "output") == _pixels(second, key, "output")]
    chosen = [key for key in seen if key not in set(equal)]
    if not chosen:
        raise DataError(
            f"{first.folder} and {second.folder} have equal outputs of all {len(seen)} items: expected two "
            "systems that differ; there is nothing to choose."
        )
    chosen = Random(f"{seed} items").sample(chosen, min(count, len(chosen)))
    tasks = _tasks(chosen, first, seed)
    names = Random(f"{seed} names {json.dumps(chosen)}")
    shown, answers = [], {}
    (folder / "pictures").mkdir()
    for task in tasks:
        label = f"{names.getrandbits(64):016x}"
        files = {}
        for side in ("source", "left", "right", *roles[1:]):
            files[side] = f"pictures/{names.getrandbits(96):024x}.png"
            _opened(runs, task, side).save(folder / files[side])
        shown.append({"task": label, "instruction": first.items[task["key"]]["instruction"], **files})
        answers[label] = task
    asked = {name: QUESTIONS[name] for name in ASKED[questions]}
    page = _identity(folder, asked, shown)
    study = {"page": page, "questions": asked, "tasks": shown}
    (folder / "index.html").write_text(document(TITLE, _body(study), "ab"), encoding="utf-8")
    systems = [run.name for run in runs]
    told = {"page": page, "systems": systems, "seed": seed, "equal": len(equal)}
    return told | {"questions": questions, "tasks": answers}


def _tasks(chosen: Sequence[Key], run: Report, seed: int) -> list[dict[str, Any]]:
    """What is asked in which order: `left` and `right` are 0 or 1, the number of a report, or "copy" and
    another item's key."""
    tasks = []
    for key in chosen:
        swap = Random(f"{seed} sides {key}").random() < 0.5
        cluster = run.items[key]["cluster"] or key[1]
        tasks.append(
            {"key": key, "cluster": cluster, "left": int(swap), "right": int(not swap), "sort": "pair"}
        )
    draw = Random(f"{seed} order")
    looks, before = [], {key: _pixels(run, key, "source") for key in chosen}
    for task in draw.sample(tasks, max(1, round(ATTENTION * len(tasks)))):
        if others := [key for key in chosen if before[key] != before[task["key"]]]:
            sides: list[Any] = ["copy", draw.choice(others)]
            draw.shuffle(sides)
            looks.append(task | {"left": sides[0], "right": sides[1], "sort": "attention"})
    order = [*tasks, *looks]
    draw.shuffle(order)
    # What comes twice comes in the first half and in the last quarter.
    early = [task for task in order[: len(order) // 2] if task["sort"] == "pair"]
    for task in draw.sample(early, min(len(early), max(1, round(REPEATED * len(tasks))))):
        again = task | {"left": task["right"], "right": task["left"], "sort": "repeat"}
        order.insert(draw.randint(len(order) * 3 // 4, len(order)), again)
    return order


def _opened(runs: Sequence[Report], task: Mapping[str, Any], side: str) -> Image.Image:
    """A picture of a task, with nothing but its pixels, at the size of the picture before the edit."""
    source = _picture(runs[0], task["key"], "source")
    what: Any = {"source": "copy", "target": "target"}.get(side) or task[side]
    if what == "copy":
        return source
    if isinstance(what, int):
        found = _picture(runs[what], task["key"], "output")
    elif what == "target":
        found = _picture(runs[0], task["key"], "target")
    else:
        found = _picture(runs[0], what, "source")
    return found if found.size == source.size else found.resize(source.size, Image.Resampling.LANCZOS)


def _picture(run: Report, key: Key, role: str) -> Image.Image:
    path = run.picture(key, role)
    try:
        with Image.open(path or "") as opened:
            plain = Image.new("RGB", opened.size)
            plain.paste(opened.convert("RGB"))
            return plain
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: expected the picture that its report names; measure again."
        ) from error


def _pixels(run: Report, key: Key, role: str) -> tuple[tuple[int, int], bytes]:
    picture = _picture(run, key, role)
    return picture.size, hashlib.sha256(picture.tobytes()).digest()


def _identity(folder: Path, asked: Mapping[str, str], shown: Sequence[Mapping[str, str]]) -> str:
    """SHA-256 of all that raters see: the tasks, their order, the bytes of their pictures."""
    seen = hashlib.sha256(json.dumps([asked, shown], sort_keys=True).encode())
    for task in shown:
        for side in (name for name in ("source", "left", "right", "target") if name in task):
            seen.update(hashlib.sha256((folder / task[side]).read_bytes()).digest())
    return seen.hexdigest()


def _body(study: Mapping[str, Any]) -> str:
    data = json.dumps(study).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    roles = {"source": "before", "left": "left", "right": "right", "target": "target"}
    figures = "".join(
        f'<figure id="{role}"><img alt="{alt}"><figcaption>{alt}</figcaption></figure>'
        for role, alt in roles.items()
        if role in study["tasks"][0]
    )
    kind = "pictures four" if "target" in study["tasks"][0] else "pictures"
    asked = ""
    for name, question in study["questions"].items():
        inputs = "".join(
            f'<label><input type="radio" name="{name}" value="{value}"> {text(shown)}</label>'
            for value, shown in CHOICES.items()
        )
        asked += f"<fieldset><legend>{text(question)}</legend>{inputs}</fieldset>"
    return f"""
<noscript><p>This page needs scripts; it asks no host for anything.</p></noscript>
<form id="start" hidden><p>Each task shows a picture before an edit and two edits of it. Say which is better,
three times. Answers stay in this browser until you download them.</p>
<p><label>Your name or a pseudonym
<input id="rater" type="text" required maxlength="60" pattern=".*\\S.*"></label>
<button>Begin</button></p></form>
<section id="task" hidden>
<p><span id="where"></span>
<progress id="progress" max="{len(study["tasks"])}" value="0" aria-label="Tasks done"></progress></p>
<h2 id="asked" tabindex="-1"></h2>
<div id="pictures" class="{kind}">{figures}</div>
<nav aria-label="View"><button id="turns" type="button">In one place, in turn (f)</button>
<button id="beside" type="button">Side by side (s)</button>
<button id="large" type="button">Large or small (z)</button></nav>
{asked}
<nav aria-label="Tasks"><button id="back" type="button">Back (b)</button>
<button id="next" type="button">Next (n)</button>
<button class="download" type="button">Download what there is</button></nav>
<p class="hint">Keys 1, 2, 3, 4: left, right, equally good, both bad, for the first open question.</p>
</section>
<section id="end" hidden><h2>That was all. Thank you.</h2>
<p>Send the file to the people from whom you have this page.</p>
<p><button class="download" type="button">Download the answers</button></p></section>
<script type="application/json" id="study">{data}</script>"""
