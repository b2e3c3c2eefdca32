"""Pair -> pair, before an example is made of it: what is learnt from is a part of the pair, or mirrored.

What comes out is a pair like any other. Its pictures have become BMP files, which lose nothing and cost
little to write and to read again. All that is random comes from the sample's own generator.
"""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from mgie.data.images import decode, decode_mask
from mgie.types import EditPair

Transform = Callable[[EditPair, np.random.Generator], EditPair]
"""A pair and the sample's generator -> another pair."""
SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)
"""Words that would be wrong in a mirror, "leftmost" and "right-hand" among them."""


@dataclass(frozen=True)
class RandomCrop:
    """The same part of source, target and mask (InstructPix2Pix, Brooks et al. 2023, section 3.2)."""

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

        return _redrawn(pair, cut)


@dataclass(frozen=True)
class RandomFlip:
    """Source, target and mask mirrored, left for right; never a pair whose words name a side."""

    share: float
    """Of the samples."""

    def __call__(self, pair: EditPair, rng: np.random.Generator) -> EditPair:
        """Raises DataError where a picture cannot be decoded."""
        mirrored = rng.random() < self.share and not SIDES.search(f"{pair.instruction}\n{pair.expressive}")
        return _redrawn(pair, ImageOps.mirror) if mirrored else pair


def augmentations(*, crop: float, flip: float) -> tuple[Transform, ...]:
    """The transforms that a recipe asks for; none for a least share of 1 and no share to be mirrored."""
    return (RandomCrop(crop),) * (crop < 1) + (RandomFlip(flip),) * (flip > 0)


def _redrawn(pair: EditPair, change: Callable[[Image.Image], Image.Image]) -> EditPair:
    """The pair with all its pictures changed alike."""

    def redraw(role: str, read: Callable[..., Image.Image]) -> bytes | None:
        data, buffer = getattr(pair, role), io.BytesIO()
        if data is None:
            return None
        change(read(data, name=f"{role} of {pair.key}")).save(buffer, format="BMP")
        return buffer.getvalue()

    target = redraw("target", decode)
    assert target is not None
    return replace(pair, target=target, source=redraw("source", decode), mask=redraw("mask", decode_mask))
