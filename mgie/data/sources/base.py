"""What all readers share: options, held-out rows, names of splits, rows set aside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from llava_patch.ranges import Range, check_ranges
from mgie.data.files import reason, regular
from mgie.data.validation import Rejected, Rows
from mgie.errors import ConfigError, DataError
from mgie.ranges import Number

Splits = dict[str, Rows]
Group = TypeVar("Group")
Similarity = Annotated[float, Range(ge=-1, le=1)]

HELD_OUT = 0.05
"""Share of groups that become the test split, from the end of the source's order, as InstructPix2Pix's."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "validation", "val", "valid", "development"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How a split may be called, in small letters -> how it is called here."""


@dataclass(frozen=True, kw_only=True)
class ClipFilter:
    """Which pairs of InstructPix2Pix are kept, by the CLIP similarities that were published with them: the
    least of both pictures, of each picture to its caption, of the change in pictures to that in captions."""

    image: Similarity = -1.0
    text: Similarity = -1.0
    direction: Similarity = -1.0
    best: Number | None = None
    """How many of a prompt's pairs are kept at most, those with the best `direction`."""

    @classmethod
    def parse(cls, text: str) -> "ClipFilter":
        """Read "paper" or a list such as "image=0.75,direction=0.2,best=4". Raises ConfigError."""
        if text == "paper":
            return PAPER
        try:
            told = dict(part.split("=", 1) for part in text.split(","))
            kinds: dict[str, Any] = {"best": int}
            parsed = cls(**{name: kinds.get(name, float)(value) for name, value in told.items()})
        except (ValueError, TypeError) as error:
            expected = "'paper' or something like 'image=0.75,text=0.2,direction=0.2,best=4'"
            raise ConfigError(f"clip={text!r} is no filter: expected {expected}.") from error
        check_ranges(parsed, name="clip")
        return parsed


PAPER = ClipFilter(image=0.75, text=0.2, direction=0.2, best=4)
"""The thresholds of InstructPix2Pix (Brooks et al. 2023, section 3.1.2)."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may ask of a reader. Each reader uses what it understands."""

    seed: int = 0
    count: int | None = None
    """Pairs (toy) or groups of pairs to take for training. None: the reader's own number, or all."""
    test: int | None = None
    """Pairs (toy) or groups to hold out. None: 500, or a twentieth."""
    size: int = 64
    """Width of drawn pictures."""
    clip: ClipFilter | None = None


def learnt(total: int, options: Options) -> int:
    """How many of so many groups are not held out. Raises ConfigError where that is none."""
    share = total - math.floor((1 - HELD_OUT) * total) if total > 1 else 0
    held = share if options.test is None else options.test
    if not 0 <= held < max(total, 1):
        raise ConfigError(f"test={held} of {total} groups leave none to learn from: choose a smaller one.")
    return total - held


def hold_out(groups: Sequence[Group], options: Options) -> dict[str, Sequence[Group]]:
    """Whole groups (prompts, sessions) to learn from and, if any, to hold out, in the source's order."""
    cut = learnt(len(groups), options)
    parts = {"train": groups[:cut][: options.count], "test": groups[cut:]}
    return {split: part for split, part in parts.items() if part or split == "train"}


def split_name(text: str, where: str) -> str:
    """What a split is called here. Raises DataError, which begins with `where`, for one that there is not."""
    name = SPLITS.get(text.strip().lower())
    if name is None:
        raise DataError(f"{where} has the split {text[:80]!r}: expected train, dev or test; rename it.")
    return name


def read_file(path: Path, key: str, role: str) -> bytes:
    """The bytes of a picture's file. Raises Rejected where they are not there."""
    try:
        return regular(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path that no file system takes
        detail = f"the {role} of {key}, {path}, cannot be read ({reason(error)}): expected a picture."
        raise Rejected(key, "missing partner", detail) from error
