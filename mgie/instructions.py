"""Words with pictures between them: how they are written, read, cleaned and introduced.

"replace the circle in <source> by <image>": `<image>` is the next of the pictures that come with the words,
`<source>` the photo itself. `<imagehere>`, as MIGE's authors write it, is `<image>`.
"""

import re
from collections.abc import Sequence
from typing import Literal

from mgie.errors import DataError
from mgie.types import PICTURE, SOURCE, Instruction

PLACE = re.compile(r"<image>|<imagehere>|<source>", re.IGNORECASE)
"""What stands for a picture."""
THEIRS = "<imagehere>"
"""How MIGE's authors write a place."""
TO_SPACE = re.compile(r'[.!"()*#:;~]')
"""What the caption cleaner of BLIP takes for a space."""
WORDS = 88
"""How many words it keeps; a place that is glued to words is one with them."""
PHOTO = "(?:the|this) (?:image|photo|picture)"
"""How people speak of the photo."""
Task = Literal["subject", "edit", "subject_edit"]
"""A new picture of what is shown, an edit in words, an edit by what is shown (MIGE, table 1)."""
Templates = Literal["train", "released"]
"""How an instruction is introduced: as in training, or as the authors' programs did it for their figures."""
_SUBJECT = "Follow the text instruction to generate an image with {}, preserving the subject's identity:\n "
PREFIXES: dict[Templates, dict[Task, tuple[str, bool]]] = {
    "train": {
        "subject": (_SUBJECT.format("the given objects"), False),
        "edit": ("Follow the instruction to edit the image:\n ", False),
        "subject_edit": ("Subject-driven editing:\n ", False),
    },
    "released": {
        "subject": (_SUBJECT.format("the given objects' images"), True),
        "edit": ("Follow the instruction to edit the image:\n ", False),
        "subject_edit": ("Subject-driven editing:\n ", True),
    },
}
"""What stands before an instruction, and whether it is cleaned with it: words that the model knows."""


def parse(text: str) -> Instruction:
    """An instruction in its parts; words without the spaces around them, and none that are empty.

    >>> parse("replace the circle in <source> by <image>").parts
    ('replace the circle in', None, 'by', 0)
    """
    parts: list[str | int | None] = []
    end = number = 0
    for place in PLACE.finditer(text):
        parts.append(text[end : place.start()].strip())
        if place[0].lower() == SOURCE:
            parts.append(None)
        else:
            parts.append(number)
            number += 1
        end = place.end()
    parts.append(text[end:].strip())
    return Instruction(parts=tuple(part for part in parts if part != ""))


def check_counts(text: str, *, pictures: int, photo: bool = True) -> Instruction:
    """The parts of an instruction that came with so many pictures. Raises DataError where it speaks of
    others."""
    instruction = parse(text)
    images = sum(isinstance(part, int) for part in instruction.parts)
    sources = instruction.parts.count(None)
    if images != pictures:
        raise DataError(
            f"the instruction has {PICTURE} {images} times and came with {pictures} pictures: expected as "
            f"many of each; write {PICTURE} where each picture belongs."
        )
    if sources > photo:
        there = f"{sources} times, and there is {'one photo' if photo else 'no photo'}"
        raise DataError(f"the instruction has {SOURCE} {there}: expected it {int(photo)} times at most.")
    if not any(isinstance(part, str) for part in instruction.parts):
        raise DataError("the instruction has no words: say what is to be done with the pictures.")
    return instruction


def named(text: str, pictures: Sequence[str], *, source: str | None) -> tuple[str, tuple[str, ...]]:
    """An instruction of MIGE's authors, whose places are all alike, with `<source>` where the source is meant
    and `<image>` elsewhere; and the pictures that are not the source. Raises DataError unless there are as
    many places.

    >>> named("put<imagehere>into<imagehere>", ["cup.png", "room.png"], source="room.png")
    ('put <image> into <source>', ('cup.png',))
    """
    if (places := len(PLACE.findall(text))) != len(pictures):
        raise DataError(f"{places} places and {len(pictures)} pictures: expected as many of each.")
    paths = iter(pictures)
    told = PLACE.sub(lambda _: f" {SOURCE if next(paths) == source else PICTURE} ", text)
    return " ".join(told.split()), tuple(path for path in pictures if path != source)


def clean(text: str) -> str:
    """As captions were cleaned for BLIP, and cut to its number of words.

    >>> clean("A<ImageHere>in the jungle!")
    'a<imagehere>in the jungle'
    """
    text = re.sub(r"\s{2,}", " ", TO_SPACE.sub(" ", text.lower())).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:WORDS])


def with_source(text: str) -> str:
    """An instruction about a photo with a place for it: where it speaks of the photo first, else at its end.

    >>> with_source("remove the dog from the picture")
    'remove the dog from <source>'
    """
    if SOURCE in text.lower():
        return text
    # A frame is a thing in the photo.
    placed, found = re.subn(rf"\b{PHOTO}\b(?!\s+frames?\b)", SOURCE, text, count=1, flags=re.IGNORECASE)
    return placed if found else f"{text.strip().removesuffix('.')} in {SOURCE}"


def with_places(text: str, *, kind: str = "") -> str:
    """The same as MIGE's authors do it with edits of the Emu Edit test, a `kind` of which is "global": every
    mention is a place, also within other words."""
    placed, found = re.subn(rf"\s*{PHOTO}\s*", f" {THEIRS} ", text, flags=re.IGNORECASE)
    return placed if found else f"{text.removesuffix('.')} {'of' if kind == 'global' else 'in'}{THEIRS}"


def introduced(text: str, task: Task, templates: Templates) -> str:
    """What the encoder reads of an instruction: cleaned, behind the words for its task."""
    prefix, together = PREFIXES[templates][task]
    return clean(prefix + text) if together else prefix + clean(text)


def task_of(instruction: Instruction, *, photo: bool) -> Task:
    """What is asked for, told by what is there."""
    if not photo:
        return "subject"
    return "subject_edit" if any(isinstance(part, int) for part in instruction.parts) else "edit"
