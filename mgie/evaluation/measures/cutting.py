"""A thing cut out of a picture by finders, to be compared with what was shown (MIGEBench)."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mgie.models.finders import Detector, Segmenter

SURE = 0.3
"""What a detection scores at least."""


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """The surest detection of a phrase, everything but it black, cropped to its box."""

    detector: Detector
    segmenter: Segmenter
    hashes: dict[str, str] = field(default_factory=dict)
    """File of weights -> SHA-256."""

    def __call__(self, picture: Image.Image, phrase: str) -> tuple[Image.Image, bool]:
        """The thing, and whether it was found: where it was not, it is the whole picture, as in the published
        program."""
        found = [each for each in self.detector(picture, phrase) if each.score >= SURE]
        if not found:
            return picture, False
        box = max(found, key=lambda each: each.score).box
        inside = np.asarray(self.segmenter(picture, box).convert("L")) > 127
        alone = Image.fromarray(np.where(inside[..., None], np.asarray(picture), 0).astype(np.uint8))
        left, top, right, bottom = (
            round(side * length) for side, length in zip(box, (*picture.size, *picture.size))
        )
        return alone.crop((left, top, max(right, left + 1), max(bottom, top + 1))), True
