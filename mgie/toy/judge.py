"""The judge of the toy world: was the edit carried out?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from mgie.data.images import decode
from mgie.errors import DataError
from mgie.toy import photos
from mgie.types import EditPair

CHANGED, KEPT = 0.12, 0.05
"""Largest mean absolute error (0 to 1) of a right scene: where it should change, and elsewhere."""

WORLDS = ("scene", "photo")
"""What `meta` says of a pair of the toy world."""

SEEN = 0.03
"""Smallest difference of a channel that counts as a change, so that the faintest smoothed edges do not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found."""

    right: bool
    why: str


def judge(pair: EditPair, output: Image.Image) -> Verdict:
    """Did the edit come out as asked? `pair` is one that toy_pairs made, perhaps stored and read again.

    A scene is right when every corner has changed as it should (mean error below 0.12 on its changed pixels),
    every shape that stays is as it was (below 0.12 on it), no shape stands where none should (below 0.12 in
    the middle of an empty corner), and the rest is as it was (below 0.05 on all that was to stay).
    A photograph is right when the edit asked for, of all nine and no edit, is the nearest to the output, and
    the output is less than half as far from it as the untouched photograph is.
    """
    world = pair.meta.get("world")
    if world not in WORLDS or pair.source is None:
        raise DataError(
            f"Pair {pair.key} is not of the toy world (its meta says world={world!r}), so its judge cannot "
            "tell whether an edit is right; make pairs with toy_pairs or `mgie prepare toy`."
        )
    source, target = decode(pair.source, name=pair.key), decode(pair.target, name=pair.key)
    output = _fitted(output.convert("RGB"), target.size)
    source = _fitted(source, target.size)
    if world == "photo":
        return _judge_photo(pair.kind, source, output)
    return _judge_scene(source, target, output)


def _judge_photo(op: str, source: Image.Image, output: Image.Image) -> Verdict:
    far = photos.distances(source, output)
    moved = photos.distances(source, source)[op]
    nearest = min(far, key=far.__getitem__)
    if nearest != op:
        why = f"it looks like {nearest} ({far[nearest]:.3f} away), not like {op} ({far[op]:.3f} away)"
        return Verdict(False, why)
    if far[op] >= moved / 2:
        why = f"{op} is {far[op]:.3f} away, more than half of the untouched photograph's {moved:.3f}"
        return Verdict(False, why)
    return Verdict(True, f"{op} is {far[op]:.3f} away, the untouched photograph {moved:.3f}")


def _judge_scene(source: Image.Image, target: Image.Image, output: Image.Image) -> Verdict:
    before, after, seen = (np.asarray(image, np.float32) / 255 for image in (source, target, output))
    error = np.abs(seen - after).mean(-1)
    changed = np.abs(before - after).max(-1) > SEEN
    shape = np.abs(after - after[0, 0]).max(-1) > SEEN
    for name, corner, middle in _corners(*error.shape):
        empty = not (shape & corner).any()
        places = {"change": changed & corner, "shape that stays": shape & ~changed & corner}
        for what, where in (places | {"empty place": middle & empty}).items():
            if where.sum() > 4 and (wrong := float(error[where].mean())) >= CHANGED:
                return Verdict(False, f"the {what} at the {name} is {wrong:.3f} off, {CHANGED} is allowed")
    if not changed.all() and (wrong := float(error[~changed].mean())) >= KEPT:
        return Verdict(False, f"what should stay is {wrong:.3f} off, {KEPT} is allowed")
    return Verdict(True, f"{float(error.mean()):.3f} off on average")


def _corners(height: int, width: int) -> Iterator[tuple[str, Bool[ndarray, "y x"], Bool[ndarray, "y x"]]]:
    """Each corner's name, its quarter of the picture, and the middle of that, as large as a small shape."""
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    for down, top in (("top", 0.0), ("bottom", 0.5)):
        for across, left in (("left", 0.0), ("right", 0.5)):
            quarter = ((y >= 0.5) == (top > 0)) & ((x >= 0.5) == (left > 0))
            middle = (abs(y - top - 0.25) < 0.11) & (abs(x - left - 0.25) < 0.11)
            yield f"{down} {across}", quarter, middle


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
