"""How well an editor does what pictures in its instructions show, and how without them.

shares(lambda pair, pictures, seed: ..., kind="pictures", count=200, seed=1)
"""

import itertools
from collections.abc import Callable, Sequence

from PIL import Image

from mgie.data.images import decode
from mgie.toy.judge import judge
from mgie.toy.pairs import ToyPairs
from mgie.toy.things import UNIT
from mgie.types import EditPair

Paint = Callable[[EditPair, Sequence[Image.Image], int], Image.Image]
"""A pair, what `<image>` stands for in its words, and a seed -> what comes about."""
MOST = 10_000
"""Pairs among which those that are asked for are looked for."""
GREY = (128, 128, 128)
"""Of a picture that shows nothing."""


def shares(
    paint: Paint, *, kind: str, count: int, seed: int, unseen: bool = False, controls: bool = True
) -> dict[str, float]:
    """Which part of `count` held-out pairs of a kind is right: as shown (right); and, judged by the same
    pictures, with another pair's instead (another) and with blank ones (blank). `unseen`: of pairs alone
    whose result has a combination that is never trained."""
    held_out = ToyPairs(MOST, seed=seed, split="test", kinds=[kind])
    fitting = (pair for pair in held_out if not unseen or pair.meta.get("unseen"))
    pairs = list(itertools.islice(fitting, count))
    found = dict.fromkeys(("right", "another", "blank")[: 3 if controls else 1], 0)
    for number, pair in enumerate(pairs):
        own = [decode(each, name=pair.key) for each in pair.pictures]
        shown = {"right": own, "blank": [Image.new("RGB", (UNIT, UNIT), GREY)] * len(own)}
        shown["another"] = [other_picture(pairs, number)] * len(own)
        for name in found:
            found[name] += judge(pair, paint(pair, shown[name], number)).right
    return {name: right / len(pairs) for name, right in found.items()}


def other_picture(pairs: Sequence[EditPair], number: int) -> Image.Image:
    """The first picture of the next pair that shows something else."""
    for step in range(1, len(pairs)):
        other = pairs[(number + step) % len(pairs)].pictures
        if other and other[0] not in pairs[number].pictures:
            return decode(other[0], name="another")
    return Image.new("RGB", (UNIT, UNIT))
