"""Masks of one's own things, found by models in folders on this machine.

As MuDI prepares its data (Jang et al. 2024): the box of a phrase, widened, and what is in it. Boxes are parts
of width and height here, so that no picture's shape matters.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
from jaxtyping import Bool
from PIL import Image

from mgie.errors import ConfigError, DataError, DeviceError
from mgie.models.finders import Detection, Finder, check_finders, sure_ones
from mgie.personalization.subjects import Subject, common_phrase

WIDER = 0.05
"""Part of the picture's sides by which a box is made wider on each side before a segmenter looks into it."""
LEAST = 0.05
"""Part of the largest piece of a mask below which another piece is no part of the thing."""


def check_mask_finders(detector: str | None, segmenter: str | None, *, lost: str) -> None:
    """Refuse, before any weight is read, what can cut nothing out; `lost` says what has no mask. Raises
    DataError, ConfigError and WeightsError."""
    if detector is None and segmenter is None:
        raise DataError(
            f"{lost} has no mask: draw one, white where the thing is, or let models find all that are "
            "missing (--detector FOLDER --segmenter FOLDER)."
        )
    if segmenter is None:
        raise ConfigError(
            f"--detector is {detector}, and a box is no mask: give --segmenter too, a folder of SAM."
        )
    if find_spec("scipy") is None:
        raise DeviceError("masks are tidied up by the package scipy; run: pip install 'mgie[eval]'")
    check_finders(detector, segmenter)


def make_masks(subjects: Sequence[Subject], finder: Finder, *, phrase: str | None = None) -> list[str]:
    """Write the masks that are missing to where they belong; the names of their photos. `phrase` says what
    all things are, instead of their own phrases without the rare word.

    Raises DataError that names the photos in which nothing was found, when all others are done.
    """
    made, failed = [], []
    for subject in subjects:
        words = phrase or common_phrase(subject.phrase)
        for photo in subject.photos:
            if photo.mask is not None:
                continue
            try:
                mask = thing_mask(photo.image, words, finder, name=photo.name)
            except DataError as error:
                failed.append((photo, error))
                continue
            temporary = photo.mask_path.with_name(f".{photo.mask_path.stem}-new.png")
            mask.save(temporary)  # whatever its name ends in, it is a PNG
            temporary.replace(photo.mask_path)
            made.append(photo.name)
    if failed:
        names = ", ".join(photo.name for photo, _ in failed)
        told = f"{len(failed)} masks could not be made, of {names}" if len(failed) > 1 else str(failed[0][1])
        raise DataError(f"{told.rstrip('.')}: draw {failed[0][0].mask_path}, white where the thing is.")
    return made


def thing_mask(image: Image.Image, phrase: str, finder: Finder, *, name: str = "the picture") -> Image.Image:
    """The mask of the one thing that a phrase names, white, as large as the picture: of several places the
    surest. Raises DataError where there is none."""
    if finder.detect is not None:
        surest = [wider(each) for each in sure_ones(finder.detect(image, phrase), threshold=0.0)[:1]]
        finder = replace(finder, detect=lambda *_: surest)
    found = finder(image, phrase, name=name)
    return Image.fromarray(tidied(np.asarray(found) > 127).astype(np.uint8) * 255)


def wider(found: Detection, by: float = WIDER) -> Detection:
    """A detection whose box is wider on each side, as far as the picture goes.

    >>> wider(Detection(box=(0.5, 0.5, 1.0, 0.75), score=1.0), 0.25).box
    (0.25, 0.25, 1.0, 1.0)
    """
    x0, y0, x1, y1 = found.box
    return replace(found, box=(max(x0 - by, 0.0), max(y0 - by, 0.0), min(x1 + by, 1.0), min(y1 + by, 1.0)))


def tidied(mask: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """A mask without holes and without specks."""
    from scipy import ndimage

    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    return ndimage.binary_fill_holes((sizes >= LEAST * sizes.max())[pieces] & mask)
