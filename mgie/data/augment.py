"""Pair -> pair, before an example is made of it: a part of it, or mirrored.

Its pictures have become BMP files then, which lose nothing and cost little to write and to read again.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from mgie.data.images import decode, decode_mask, encode
from mgie.types import Box, EditPair

Transform = Callable[[EditPair, np.random.Generator], EditPair]
"""A pair and the sample's generator -> another pair."""
SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)
"""Words that would be wrong in a mirror, "leftmost" and "right-hand" among them."""
KEPT = 0.1
"""A region of which a crop leaves less than this share is left out."""


@dataclass(frozen=True)
class RandomCrop:
    """The same part of all pictures of a pair (InstructPix2Pix, Brooks et al. 2023, section 3.2)."""

    smallest: float
    """Least share of each side that is kept; the share is uniform from here to 1, and so is the place."""

    def __call__(self, pair: EditPair, rng: np.random.Generator) -> EditPair:
        """Raises DataError where a picture cannot be decoded."""
        share = rng.uniform(self.smallest, 1)
        across, down = rng.random(2)

        def cut(image: Image.Image) -> Image.Image:
            width, height = (math.ceil(share * side) for side in image.size)
            left, top = round(across * (image.width - width)), round(down * (image.height - height))
            return image.crop((left, top, left + width, top + height))

        def cut_box(box: Box) -> Box | None:
            begin = np.array([across, down] * 2) * (1 - share)
            left, top, right, bottom = ((np.array(box) - begin) / share).clip(0, 1).tolist()
            kept = (right - left) * (bottom - top) * share**2 / ((box[2] - box[0]) * (box[3] - box[1]))
            return (left, top, right, bottom) if kept >= KEPT else None

        return _redrawn(pair, cut, cut_box)


@dataclass(frozen=True)
class RandomFlip:
    """All pictures of a pair mirrored, left for right; never of one whose words name a side."""

    share: float
    """Of the samples."""

    def __call__(self, pair: EditPair, rng: np.random.Generator) -> EditPair:
        """Raises DataError where a picture cannot be decoded."""
        words = "\n".join([pair.instruction, pair.expressive, *(region.phrase for region in pair.regions)])
        if rng.random() >= self.share or SIDES.search(words):
            return pair
        return _redrawn(pair, ImageOps.mirror, lambda box: (1 - box[2], box[1], 1 - box[0], box[3]))


@dataclass(frozen=True)
class FewerRegions:
    """So many regions of those that have more, in their order (MIGC, Zhou et al. 2024, takes six)."""

    most: int

    def __call__(self, pair: EditPair, rng: np.random.Generator) -> EditPair:
        """A pair with at most so many."""
        if len(pair.regions) <= self.most:
            return pair
        kept = sorted(rng.permutation(len(pair.regions))[: self.most].tolist())
        return replace(pair, regions=tuple(pair.regions[place] for place in kept))


def augmentations(*, crop: float, flip: float, regions: int | None = None) -> tuple[Transform, ...]:
    """The transforms that a recipe asks for; none for a least share of 1 and no share to be mirrored, and for
    no number of `regions`."""
    fewer = () if regions is None else (FewerRegions(regions),)
    return (RandomCrop(crop),) * (crop < 1) + (RandomFlip(flip),) * (flip > 0) + fewer


def _redrawn(
    pair: EditPair, change: Callable[[Image.Image], Image.Image], change_box: Callable[[Box], Box | None]
) -> EditPair:
    """The pair with all its pictures and regions changed alike; not those that its instruction contains."""

    def redraw(data: bytes | None, role: str, read: Callable[..., Image.Image]) -> bytes | None:
        return None if data is None else encode(change(read(data, name=f"{role} of {pair.key}")), "BMP")

    regions = []
    for region in pair.regions:
        box, mask = region.box and change_box(region.box), redraw(region.mask, "region", decode_mask)
        if mask and region.mask and _area(mask) < KEPT * _area(region.mask):
            continue
        if box is not None or region.box is None:
            regions.append(replace(region, box=box, mask=mask))
    return replace(
        pair, source=redraw(pair.source, "source", decode), target=redraw(pair.target, "target", decode),
        mask=redraw(pair.mask, "mask", decode_mask), regions=tuple(regions),
    )  # fmt: skip


def _area(mask: bytes) -> int:
    """White pixels of a mask."""
    return int((np.asarray(decode_mask(mask, name="mask")) > 127).sum())
