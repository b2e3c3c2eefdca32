"""Counting: are there as many things in a picture as its words say?

DIR/counting.json    [{"prompt": "two cats and a dog", "things": {"cat": 2, "dog": 1}}]
DIR/*.csv            DrawBench (Saharia et al. 2022): columns Prompts and Category, of which "Counting"
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mgie.data.files import MALFORMED, read_json, reason
from mgie.data.phrases import singular
from mgie.errors import DataError
from mgie.evaluation.controlled.benchmark import AbstractMeasure, Measured, Task
from mgie.evaluation.controlled.found import Found
from mgie.models.finders import sure_ones

OWN = "counting.json"
FORM = '[{"prompt": TEXT, "things": {THING: NUMBER}}]'
CATEGORY = "counting"
NUMBERS = {
    word: number
    for number, words in enumerate(
        ("no zero", "a an one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
    for word in words.split()
}
"""Words for numbers, in English."""
_SAID = "|".join(word for word in NUMBERS if len(word) > 2)
COUNTED = re.compile(rf"\b({_SAID}|\d+)\s+([a-z]+)", re.IGNORECASE)
"""A number that is said as one, and the noun behind it."""


def read_counting(folder: Path, count: int) -> list[Task]:
    """The prompts of a folder with what they count, `count` at most. Raises DataError for a prompt whose
    numbers nobody understands."""
    if (folder / OWN).is_file():
        listed = read_json(folder / OWN, _own, FORM)
    else:
        files = sorted(folder.glob("*.csv"))
        if not files:
            raise DataError(f"{folder} has neither {OWN} nor DrawBench's .csv: expected {FORM}.")
        listed = [(prompt, counted(prompt, files[0])) for prompt in _drawbench(files[0])]
    if empty := [prompt for prompt, things in listed if not things]:
        raise DataError(f"{folder}: {empty[0]!r} counts nothing; expected {FORM}.")
    return [
        Task(
            key=f"{number:04d}", instruction=prompt, facts={"things": things}, kind=str(sum(things.values()))
        )
        for number, (prompt, things) in enumerate(listed[:count])
    ]


def counted(prompt: str, path: Path) -> dict[str, int]:
    """What a prompt counts: thing in the singular -> number. Raises DataError, naming the file, for a prompt
    with no number.

    >>> counted("Two cats and one dog sitting on the grass.", Path("drawbench.csv"))
    {'cat': 2, 'dog': 1}
    """
    things: dict[str, int] = {}
    for number, noun in COUNTED.findall(prompt):
        value = NUMBERS[number.lower()] if number.lower() in NUMBERS else int(number)
        thing = singular(noun.lower())
        things[thing] = things.get(thing, 0) + value
    if not things:
        raise DataError(
            f"{path}: {prompt!r} says no number: write {OWN} beside it, {FORM}, to say what is counted."
        )
    return things


@dataclass(frozen=True, kw_only=True)
class Counts(AbstractMeasure):
    """How many of each thing a detector finds, of detections that do not overlap much."""

    finders: Found

    @property
    def depends_on(self) -> dict[str, Any]:
        """The detector's weights."""
        return {"finders": self.finders.hashes}

    def measure(self, task: Task, picture: Image.Image) -> Measured:
        """Whether each count is right, and all of them; by how many they are off."""
        wanted: Mapping[str, int] = task.facts["things"]
        found = {thing: len(sure_ones(self.finders.detector(picture, thing))) for thing in wanted}
        off = [abs(found[thing] - number) for thing, number in wanted.items()]
        right = [not each for each in off]
        scores = {
            "counts_right": sum(right) / len(right), "all_counts_right": float(all(right)),
            "miscounted": sum(off) / len(off),
        }  # fmt: skip
        things = len(wanted)
        return Measured(
            scores=scores, of={"counts_right": things, "miscounted": things}, told={"found": found}
        )


def _own(held: Any) -> list[tuple[str, dict[str, int]]]:
    return [
        (str(told["prompt"]), {str(thing): int(number) for thing, number in told["things"].items()})
        for told in held
    ]


def _drawbench(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found = [str(row["Prompts"]) for row in rows if row["Category"].strip().lower() == CATEGORY]
    except (*MALFORMED, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read ({reason(error)}): expected columns Prompts and Category."
        ) from error
    if not found:
        raise DataError(f"{path} has no prompt of the category Counting: expected DrawBench's file.")
    return found
