"""What raters answered on a blind page -> who won, how surely, and who can be believed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgie.data.files import read_json
from mgie.errors import DataError
from mgie.evaluation.comparing.bootstrap import DRAWS, Clusters, detectable, interval
from mgie.evaluation.comparing.ranking import Match
from mgie.evaluation.people.ab import ASKED, CHOICES, KEY, LOOKED
from mgie.evaluation.people.agreement import agreement, sign_test

PASSES = 0.8
"""Share of attention tasks that a rater must get right to count."""
EXPECTED = (
    'a file that the page gave out: {"page", "rater", "answers": [{"task", "question", "choice", "ms"}]}'
)


@dataclass(frozen=True, kw_only=True)
class Rater:
    """What one person answered: task and question -> side, tie or bad."""

    name: str
    choices: Mapping[tuple[str, str], str]


def read_key(folder: Path) -> dict[str, Any]:
    """Which output was whose. Raises DataError."""
    expected = f"the folder of a comparison that wrote a blind page (--ab), with {KEY}"
    if not (folder / KEY).exists():
        raise DataError(f"{folder} has no {KEY}: expected {expected}.")
    return read_json(folder / KEY, _key, expected)


def _key(found: Any) -> dict[str, Any]:
    first, second = found["systems"]
    tasks = {
        str(name): {**task, "key": tuple(task["key"]), "cluster": str(task["cluster"])}
        for name, task in found["tasks"].items()
    }
    for task in tasks.values():
        if task["sort"] not in ("pair", "repeat", "attention") or "copy" == task["left"] == task["right"]:
            raise ValueError("a task of no known sort")
    questions = str(found.get("questions", "own"))
    if questions not in ASKED:
        raise ValueError(f"questions {questions!r} that nobody asks")
    return {
        **found,
        "questions": questions,
        "systems": [str(first), str(second)],
        "page": str(found["page"]),
        "tasks": tasks,
    }


def read_answers(place: str | Path, *keys: Mapping[str, Any]) -> list[list[Rater]]:
    """The raters' files, one or all *.json of a folder, for each page by its key. Raises DataError for a file
    of another page, an answer to what was not asked, a rater who answers one page twice."""
    place, pages = Path(place), {key["page"]: key for key in keys}
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    if not files:
        raise DataError(f"{place} holds no *.json: expected the files that raters downloaded from the page.")
    raters: dict[tuple[str, str], Path] = {}
    found: dict[str, list[Rater]] = {page: [] for page in pages}
    for file in files:
        told = read_json(file, _told, EXPECTED)
        if told["page"] not in pages:
            known = ", ".join(page[:12] for page in pages)
            raise DataError(
                f"{file} was answered on another page ({told['page'][:12]}, and the key is of {known}): "
                "expected answers to the page that this comparison wrote."
            )
        key, by = pages[told["page"]], (told["page"], told["rater"])
        if by in raters:
            other = raters[by]
            raise DataError(f"{file} and {other} are both by {told['rater']!r}: expected one file of each.")
        choices: dict[tuple[str, str], str] = {}
        asked = ASKED[key["questions"]]
        for task, question, choice in told["answers"]:
            known = task in key["tasks"] and question in asked and choice in CHOICES
            if not known or (task, question) in choices:
                raise DataError(
                    f"{file} answers {choice!r} to {question!r} of task {task!r}"
                    f"{' twice' if known else ''}: expected one of {', '.join(CHOICES)}, once for each task "
                    "and question of the page."
                )
            choices[task, question] = choice
        raters[by] = file
        found[told["page"]].append(Rater(name=told["rater"], choices=choices))
    return [found[key["page"]] for key in keys]


def _told(found: Any) -> dict[str, Any]:
    answers = [(str(each["task"]), str(each["question"]), str(each["choice"])) for each in found["answers"]]
    return {"page": str(found["page"]), "rater": str(found["rater"]), "answers": answers}


def judge_answers(
    key: Mapping[str, Any], raters: Sequence[Rater], *, seed: int, draws: int = DRAWS
) -> dict[str, Any]:
    """Of each question: won, tied, both bad, lost (of the first system), its win rate with a 95 % interval,
    and how far raters agree. Returns systems, seed, draws, equal, raters, questions, warnings.

    A tie and "both bad" are half a win. Repeated tasks count only for the raters' consistency, and raters
    who fail more than a fifth of the attention tasks do not count. Raises DataError where nobody is left.
    """
    checked = {rater.name: _checked(key, rater) for rater in raters}
    kept = [rater for rater in raters if checked[rater.name]["counts"]]
    if not kept or not any(task in key["tasks"] for rater in kept for task, _ in rater.choices):
        raise DataError(
            f"none of {len(raters)} raters answered anything and passed the attention tasks ({PASSES:.0%}): "
            "expected one at least; ask others."
        )
    questions = {
        question: _question(key, kept, question, seed=seed, draws=draws)
        for question in ASKED[key["questions"]]
        if any(asked == question for rater in kept for _, asked in rater.choices)
    }
    failed = [name for name, each in checked.items() if not each["counts"]]
    warnings = [f"{name} failed the attention tasks and does not count" for name in failed]
    if key["equal"]:
        warnings.append(f"{key['equal']} items with equal outputs were not asked about")
    return {
        "systems": key["systems"], "seed": seed, "draws": draws, "equal": key["equal"], "raters": checked,
        "questions": questions, "warnings": warnings,
    }  # fmt: skip


def _side(key: Mapping[str, Any], task: str, choice: str) -> str:
    """Whom a choice means: "first", "second", "tie" or "bad"."""
    if choice in ("tie", "bad"):
        return choice
    return ("first", "second")[key["tasks"][task][choice]]


def _checked(key: Mapping[str, Any], rater: Rater) -> dict[str, Any]:
    """Whether a rater looked, answers alike twice, and favours a side."""
    tasks = key["tasks"]
    looked = [
        choice in ("left", "right") and tasks[task][choice] == "copy"
        for (task, question), choice in rater.choices.items()
        if tasks[task]["sort"] == "attention" and question == LOOKED[key["questions"]]
    ]
    first = {
        (task["key"], question): _side(key, name, rater.choices[name, question])
        for name, task in tasks.items() if task["sort"] == "pair"
        for question in ASKED[key["questions"]] if (name, question) in rater.choices
    }  # fmt: skip
    again = [
        _side(key, task, choice) == first[tasks[task]["key"], question]
        for (task, question), choice in rater.choices.items()
        if tasks[task]["sort"] == "repeat" and (tasks[task]["key"], question) in first
    ]
    sides = Counter(
        choice for (task, _), choice in rater.choices.items()
        if tasks[task]["sort"] != "attention" and choice in ("left", "right")
    )  # fmt: skip
    return {
        "answers": len(rater.choices),
        "attention": sum(looked) / len(looked) if looked else None,
        "counts": not looked or sum(looked) / len(looked) >= PASSES,
        "consistent": sum(again) / len(again) if again else None,
        "left": sides["left"], "right": sides["right"],
        "side_p": sign_test(sides["left"], sides["right"]),
    }  # fmt: skip


def _question(
    key: Mapping[str, Any], raters: Sequence[Rater], question: str, *, seed: int, draws: int
) -> dict[str, Any]:
    """One question: clusters of items are drawn, with all that raters said of them."""
    ratings: dict[str, dict[str, str]] = {}
    for rater in raters:
        own = {
            task: _side(key, task, choice)
            for (task, asked), choice in sorted(rater.choices.items())
            if asked == question and key["tasks"][task]["sort"] == "pair"
        }
        ratings[rater.name] = own
    said = sorted((task, name, whom) for name, own in ratings.items() for task, whom in own.items())
    tally = Counter(whom for _, _, whom in said)
    facts: dict[str, Any] = {
        "n": len(said), "items": len({task for task, _, _ in said}), "won": tally["first"],
        "tied": tally["tie"], "both_bad": tally["bad"], "lost": tally["second"],
    }  # fmt: skip
    if not said:
        return facts
    worth = {"first": 1.0, "second": 0.0}
    group = Clusters(
        labels=tuple(key["tasks"][task]["cluster"] for task, _, _ in said), seed=seed, draws=draws
    )
    points = np.array([[worth.get(whom, 0.5)] for _, _, whom in said])
    values, drawn = group.ratios(points, np.ones_like(points))
    facts |= {"win_rate": asdict(interval(float(values[0]), drawn[:, 0], group.count))}
    facts |= {"detectable": detectable(drawn[:, 0])} if group.count > 1 else {}
    return facts | ({"agreement": agreement(ratings)} if len(raters) > 1 else {})


def matches_of(key: Mapping[str, Any], raters: Sequence[Rater]) -> list[Match]:
    """What the raters who count said of a page's pairs, as matches of its systems; both bad is a tie."""
    first, second = key["systems"]
    return [
        Match(
            first=first, second=second, question=question, cluster=key["tasks"][task]["cluster"],
            outcome=whom if whom in ("first", "second") else "tie",
        )
        for rater in raters if _checked(key, rater)["counts"]
        for (task, question), choice in sorted(rater.choices.items())
        if key["tasks"][task]["sort"] == "pair" and (whom := _side(key, task, choice))
    ]  # fmt: skip
