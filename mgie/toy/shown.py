"""How well an editor does what pictures in its instructions show, and how without them.

shares(lambda pair, pictures, seed: ..., kind="pictures", count=200, seed=1)
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from mgie.data.images import decode
from mgie.errors import ConfigError
from mgie.toy.judge import judge
from mgie.toy.pairs import ToyPairs
from mgie.toy.things import UNIT
from mgie.types import EditPair

Paint = Callable[[EditPair, Sequence[Image.Image], int], Image.Image]
"""A pair, what `<image>` stands for in its words, and a seed -> what comes about."""
CONTROLS = ("another", "blank", "words")
"""What must fail: another pair's picture, a blank one, another pair's words."""
MOST = 10_000
"""Pairs among which those that are asked for are looked for."""
GREY = (128, 128, 128)
"""Of a picture that shows nothing."""


def shares(
    paint: Paint, *, kind: str, count: int, seed: int, unseen: bool = False, controls: bool = True
) -> dict[str, float]:
    """Which part of `count` held-out pairs of a kind is right: as shown (right); and, judged as before, with
    another pair's pictures (another), with blank ones (blank), and with another pair's instruction beside
    the right ones (words). `unseen`: of pairs alone whose result has a combination that is never trained.
    Raises ConfigError as `held_out` does."""
    pairs = held_out(kind, count=count, seed=seed, unseen=unseen)
    found = dict.fromkeys(("right", *(CONTROLS if controls else ())), 0)
    for number, pair in enumerate(pairs):
        own = [decode(each, name=pair.key) for each in pair.pictures]
        shown = {"right": own, "blank": [Image.new("RGB", (UNIT, UNIT), GREY)] * len(own)}
        shown["another"] = [other_picture(pairs, number)] * len(own)
        for name in found:
            told = other_words(pairs, number) if name == "words" else pair
            found[name] += judge(pair, paint(told, shown.get(name, own), number)).right
    return {name: right / len(pairs) for name, right in found.items()}


def held_out(kind: str, *, count: int, seed: int, unseen: bool = False) -> list[EditPair]:
    """The first `count` held-out pairs of a kind; `unseen`: with a combination that is never trained.

    Raises ConfigError where there are fewer, or none are asked for.
    """
    fitting = (pair for pair in ToyPairs(MOST, seed=seed, split="test", kinds=[kind])
               if not unseen or pair.meta.get("unseen"))  # fmt: skip
    pairs = list(itertools.islice(fitting, max(count, 0)))
    if not 1 <= count <= len(pairs):
        what = "held-out pairs with a combination that is never trained" if unseen else "held-out pairs"
        most = f"1 to {len(pairs)}" if count > 0 else "at least 1"
        raise ConfigError(f"count={count} {what} of toy:{kind} are to be judged: expected {most}.")
    return pairs


def other_words(pairs: Sequence[EditPair], number: int) -> EditPair:
    """A pair with the instruction of the next one that asks for another kind of edit by as many pictures."""
    own = pairs[number]
    for step in range(1, len(pairs)):
        other = pairs[(number + step) % len(pairs)]
        if other.meta["edit"] != own.meta["edit"] and len(other.pictures) == len(own.pictures):
            return replace(own, instruction=other.instruction)
    return replace(own, instruction=" ".join(["<image>"] * len(own.pictures)))


def other_picture(pairs: Sequence[EditPair], number: int) -> Image.Image:
    """The first picture of the next pair that shows something else."""
    for step in range(1, len(pairs)):
        other = pairs[(number + step) % len(pairs)].pictures
        if other and other[0] not in pairs[number].pictures:
            return decode(other[0], name="another")
    return Image.new("RGB", (UNIT, UNIT))
