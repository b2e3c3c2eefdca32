"""Captions -> phrases -> boxes in a picture: regions as layouts are trained on them.

The way of MIGC's training data (Zhou et al. 2024): a parser of sentences, a detector that finds a phrase in a
picture (Grounding DINO, Liu et al. 2023), and, for MIGC++, a segmenter (SAM, Kirillov et al. 2023). Each is
given by the caller; a parser by Stanza is here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from mgie.data.images import encode, resize
from mgie.data.phrases import caption_phrases
from mgie.errors import DataError, DeviceError, WeightsError
from mgie.models.finders import Detector, Segmenter, sure_ones
from mgie.types import Box, Region

SIDE = 512
"""Of the square that every picture is brought to, whatever its shape, before a detector sees it."""

Parser = Callable[[str], Sequence[str]]
"""A caption -> each sentence's bracketed tree."""


def grounded(
    image: Image.Image,
    caption: str,
    *,
    parse: Parser,
    detect: Detector,
    segment: Segmenter | None = None,
) -> tuple[Region, ...]:
    """All detections of each of a caption's phrases, in the caption's order, the surest first.

    Detector and segmenter see a square of `SIDE`; boxes are parts of width and height, and masks have the
    picture's own size. Raises DataError for boxes or masks that cannot be.
    """
    regions = []
    seen = resize(image, (SIDE, SIDE))
    for phrase in caption_phrases(parse(caption)):
        for each in sure_ones(detect(seen, phrase.text)):
            check_box(each.box, f"the detector's box of {phrase.text!r}")
            mask = None if segment is None else _mask(segment(seen, each.box), image)
            regions.append(Region(phrase=phrase.text, box=each.box, mask=mask))
    return tuple(regions)


def check_box(box: Box, what: str) -> None:
    """Raise DataError, calling it `what`, unless it is x0 y0 x1 y1 in [0, 1] and not empty."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        hint = "; divide pixels by the picture's width and height" if max(box) > 1 else ""
        raise DataError(
            f"{what} is {', '.join(f'{side:g}' for side in box)}: expected x0, y0, x1, y1 as parts of width "
            f"and height, with x0 < x1 and y0 < y1{hint}."
        )


def stanza_parser(folder: str | Path, language: str = "en") -> Parser:
    """A parser by Stanza's models in a local folder, every sentence of a caption.

    Raises DeviceError where the package is missing and WeightsError where the models are; nothing is fetched.
    """
    try:
        import stanza
    except ImportError as error:
        raise DeviceError(
            "Parsing captions needs the package stanza, which is not installed; run: pip install "
            "'mgie[grounding]'"
        ) from error
    if not (Path(folder) / "resources.json").is_file():
        raise WeightsError(
            f"{folder} is no folder of Stanza's models (it has no resources.json): expected one that "
            f"stanza.download({language!r}, model_dir=...) has made."
        )
    read = stanza.Pipeline(
        language,
        dir=str(folder),
        processors="tokenize,pos,constituency",
        download_method=None,
        verbose=False,
    )

    def parse(caption: str) -> list[str]:
        return [str(sentence.constituency) for sentence in read(caption).sentences]

    return parse


def _mask(mask: Image.Image, image: Image.Image) -> bytes:
    """A segmenter's mask as it is stored."""
    if mask.size != (SIDE, SIDE):
        raise DataError(
            f"the segmenter's mask is {mask.width} x {mask.height}: expected {SIDE} x {SIDE}, the size of "
            "the picture that it was shown."
        )
    # Nearest: a mask says yes or no.
    return encode(mask.convert("L").resize(image.size, Image.Resampling.NEAREST), "PNG")
