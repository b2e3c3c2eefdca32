"""COCO-MIG's scores: is each thing in the place and of the colour that were asked for?

Zhou et al., MIGC, CVPR 2024. A detector looks for the thing without its colour; where it finds it in the box,
a segmenter cuts out what is in the box, and its colour is counted. Both are the caller's. Boxes are parts of
width and height.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from mgie.data.grounding import SIDE
from mgie.data.images import resize
from mgie.errors import DataError
from mgie.models.finders import Detection, Detector, Segmenter, intersection_over_union, sure_ones
from mgie.types import Box

LEAST_OVERLAP = 0.5
"""Intersection over union with its box from which on a thing is in its place."""
LEAST_COLOUR = 0.2
"""Part of a thing from which on it has its colour."""

COLOURS: Mapping[str, tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...]] = {
    "red": (((0, 50, 70), (9, 255, 255)), ((159, 50, 70), (180, 255, 255))),
    "blue": (((90, 50, 70), (128, 255, 255)),),
    "yellow": (((25, 50, 70), (35, 255, 255)),),
    "green": (((36, 50, 70), (89, 255, 255)),),
    "black": (((0, 0, 0), (180, 255, 30)),),
    "white": (((0, 0, 221), (180, 43, 255)),),
    "brown": (((6, 43, 35), (25, 255, 255)),),
}
"""Least and greatest hue (of 180), saturation and value of each, ends included. Red and brown overlap, an
orange is brown, and hues from 129 to 158 are nobody's."""

SHIFT = 12
"""Bits behind the point, in OpenCV's conversion of 8-bit pictures to HSV."""
_COUNTS = np.arange(1, 256)
_SATURATION = np.concatenate([[0], np.rint((255 << SHIFT) / _COUNTS)]).astype(np.int64)
_HUE = np.concatenate([[0], np.rint((180 << SHIFT) / (6.0 * _COUNTS))]).astype(np.int64)
"""Its tables of quotients."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One instance that a picture was to show."""

    colour: str
    """One of `COLOURS`."""
    thing: str
    """What the detector looks for."""
    box: Box

    @classmethod
    def of(cls, phrase: str, box: Box) -> "Wanted":
        """From the benchmark's "a red teddy bear". Raises DataError."""
        article, _, rest = phrase.partition(" ")
        colour, _, thing = rest.partition(" ")
        if article != "a" or colour not in COLOURS or not thing:
            raise DataError(
                f"{phrase!r} is no instance of COCO-MIG: expected 'a <colour> <thing>' with one of the "
                f"colours {', '.join(COLOURS)}."
            )
        return cls(colour=colour, thing=thing, box=box)


@dataclass(frozen=True, kw_only=True)
class InstanceScore:
    """What became of one instance."""

    in_place: bool
    in_colour: bool
    """False where it is not in its place, for then nobody looks."""
    overlap: float
    """Recorded intersection over union: the best detection's; 0 for one in place of another colour."""

    @property
    def right(self) -> bool:
        """Both."""
        return self.in_place and self.in_colour


def score_picture(
    image: Image.Image,
    wanted: Sequence[Wanted],
    *,
    detect: Detector,
    segment: Segmenter,
    strict: bool = False,
) -> list[InstanceScore]:
    """Score all instances of one picture.

    As published, one thing that is found may serve several instances; `strict` gives each thing to one at
    most, to as many in their places as can be.
    """
    seen = resize(image, (SIDE, SIDE))
    pixels = np.asarray(seen)
    found = {thing: detect(seen, thing) for thing in dict.fromkeys(each.thing for each in wanted)}
    shares = [found[each.thing] for each in wanted]
    if strict:
        for thing in found:
            places = [place for place, each in enumerate(wanted) if each.thing == thing]
            given = _shared_out([wanted[place].box for place in places], sure_ones(found[thing]))
            for place, share in zip(places, given):
                shares[place] = share

    def mask(box: Box) -> Bool[np.ndarray, "y x"]:
        return np.asarray(segment(seen, box).convert("L")) > 127

    return [score_instance(pixels, each, share, mask) for each, share in zip(wanted, shares)]


def score_instance(
    pixels: UInt8[np.ndarray, "y x 3"],
    wanted: Wanted,
    found: Sequence[Detection],
    mask: Callable[[Box], Bool[np.ndarray, "y x"]],
) -> InstanceScore:
    """Score one instance by all that a detector has found of its thing, and the mask of what is in a box.

    Pixels are RGB. Of detections that overlap much, the surest counts, be it the worse one. The mask is asked
    for only where something is in place, and of the wanted box, not of the one that was found.
    """
    best = max((intersection_over_union(each.box, wanted.box) for each in sure_ones(found)), default=0.0)
    if best < LEAST_OVERLAP:
        return InstanceScore(in_place=False, in_colour=False, overlap=best)
    fraction = colour_fraction(pixels, mask(wanted.box), wanted.colour)
    in_colour = fraction >= LEAST_COLOUR
    return InstanceScore(in_place=True, in_colour=in_colour, overlap=best if in_colour else 0.0)


def colour_fraction(pixels: UInt8[np.ndarray, "y x 3"], mask: Bool[np.ndarray, "y x"], colour: str) -> float:
    """Part of a mask's pixels (RGB) that have a colour; 0 of an empty mask."""
    inside = hsv(pixels[mask])
    has = np.zeros(len(inside), dtype=bool)
    for low, high in COLOURS[colour]:
        has |= ((inside >= low) & (inside <= high)).all(-1)
    return float(has.mean()) if len(has) else 0.0


def hsv(rgb: UInt8[np.ndarray, "*n 3"]) -> UInt8[np.ndarray, "*n 3"]:
    """Hue in [0, 180), saturation and value in [0, 255], to the bit as OpenCV's 8-bit conversion rounds them.

    In integers with `SHIFT` bits behind the point; limits of colours lie at single steps.
    """
    red, green, blue = (rgb[..., channel].astype(np.int64) for channel in range(3))
    value = rgb.max(-1).astype(np.int64)
    spread = value - rgb.min(-1)
    hue = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    half = 1 << SHIFT - 1
    saturation = spread * _SATURATION[value] + half >> SHIFT
    hue = hue * _HUE[spread] + half >> SHIFT
    return np.stack([hue + 180 * (hue < 0), saturation, value], axis=-1).astype(np.uint8)


def summary(pictures: Sequence[Sequence[InstanceScore]]) -> dict[str, float]:
    """Success rates of instances and of whole pictures, and mIoU: over all, and by "L2/", "L3/", ... .

    A picture's level is how many instances it was to show. Means are over instances, so those of crowded
    pictures weigh more. Raises DataError for nothing to average.
    """
    if not any(pictures):
        raise DataError("there is no instance to be averaged: expected the scores of at least one picture.")
    levels = {f"L{count}/": count for count in sorted({len(each) for each in pictures if each})}
    told = {}
    for prefix, count in {"": None, **levels}.items():
        those = [each for each in pictures if each and count in (None, len(each))]
        instances = [score for each in those for score in each]
        told[f"{prefix}instance_success_rate"] = sum(score.right for score in instances) / len(instances)
        told[f"{prefix}image_success_rate"] = sum(all(s.right for s in each) for each in those) / len(those)
        told[f"{prefix}mean_iou"] = sum(score.overlap for score in instances) / len(instances)
    return told


def _shared_out(boxes: Sequence[Box], found: Sequence[Detection]) -> list[list[Detection]]:
    """Detections for boxes of one thing: first as many boxes as can be get one that is in place, with the
    greatest overlap in sum; what is left over may be looked at by the others."""
    from scipy.optimize import linear_sum_assignment  # scipy comes with the extra `eval`

    overlaps = np.array([[intersection_over_union(each.box, box) for each in found] for box in boxes])
    overlaps = overlaps.reshape(len(boxes), len(found))
    in_place = overlaps >= LEAST_OVERLAP
    gains = np.where(in_place, overlaps + len(boxes), 0.0)  # one more served outweighs all overlaps together
    given = {
        place: number
        for place, number in zip(*linear_sum_assignment(gains, maximize=True))
        if in_place[place, number]
    }
    free = [each for number, each in enumerate(found) if number not in given.values()]
    return [[found[given[place]]] if place in given else free for place in range(len(boxes))]
