import colorsys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mgie.data.grounding import SIDE
from mgie.errors import DataError
from mgie.evaluation.controlled.coco_mig import (
    COLOURS,
    InstanceScore,
    Wanted,
    colour_fraction,
    hsv,
    score_picture,
    summary,
)
from mgie.models.finders import Detection
from mgie.types import Box

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
RED_LEFT = Wanted(colour="red", thing="ball", box=LEFT)
PAINT = {
    "red": (220, 30, 30), "blue": (30, 60, 220), "yellow": (230, 220, 30), "green": (30, 200, 60),
    "black": (10, 10, 10), "white": (250, 250, 250), "brown": (140, 90, 40),
}  # fmt: skip


def picture(left: str, right: str) -> Image.Image:
    image = Image.new("RGB", (100, 60), PAINT[right])
    ImageDraw.Draw(image).rectangle((0, 0, 49, 59), fill=PAINT[left])
    return image


def inside(seen: Image.Image, box: Box) -> Image.Image:
    """A segmenter that takes all of a box."""
    mask = Image.new("L", seen.size)
    ImageDraw.Draw(mask).rectangle([side * SIDE for side in box], fill=255)
    return mask


def at(*boxes: Box):
    """A detector that finds everything there."""
    return lambda _seen, _thing: [
        Detection(box=box, score=0.9 - place / 100) for place, box in enumerate(boxes)
    ]


def one(scores: list[InstanceScore]) -> InstanceScore:
    (score,) = scores
    return score


@pytest.mark.parametrize("colour", COLOURS)
def test_each_paint_has_its_colour_and_grey_none(colour):
    pixels = np.full((4, 4, 3), PAINT[colour], dtype=np.uint8)
    whole = np.ones((4, 4), dtype=bool)
    assert colour_fraction(pixels, whole, colour) == 1
    assert colour_fraction(np.full_like(pixels, 127), whole, colour) == 0
    assert colour_fraction(pixels, ~whole, colour) == 0


def test_an_orange_is_brown():
    pixels = np.full((1, 1, 3), (255, 140, 0), dtype=np.uint8)
    assert colour_fraction(pixels, np.ones((1, 1), dtype=bool), "brown") == 1


def test_hue_saturation_and_value():
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3)).astype(np.uint8)
    hue, saturation, value = hsv(rgb).astype(float).T
    expected = np.array([colorsys.rgb_to_hsv(*(each / 255)) for each in rgb])
    assert np.abs((hue - expected[:, 0] * 180 + 90) % 180 - 90).max() <= 0.6  # its quotients are rounded
    assert np.abs(saturation - expected[:, 1] * 255).max() <= 0.6
    assert (value == rgb.max(-1)).all()


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (0, 0, 255)), ((255, 0, 1), (0, 255, 255)),
        ((255, 0, 5), (179, 255, 255)), ((0, 255, 0), (60, 255, 255)), ((0, 0, 255), (120, 255, 255)),
        ((10, 200, 30), (63, 242, 200)), ((200, 10, 30), (177, 242, 200)), ((13, 7, 11), (160, 118, 13)),
    ],
)  # fmt: skip
def test_rounding_is_opencvs(rgb, expected):
    """What cv2.cvtColor(..., COLOR_RGB2HSV) of OpenCV 5.0 gives. All 256^3 colours were compared once."""
    assert tuple(hsv(np.array(rgb, dtype=np.uint8))) == expected


def test_in_place_and_in_colour():
    scored = one(score_picture(picture("red", "blue"), [RED_LEFT], detect=at(LEFT), segment=inside))
    assert scored == InstanceScore(in_place=True, in_colour=True, overlap=1.0) and scored.right


def test_a_wrong_colour_records_no_overlap():
    scored = one(score_picture(picture("green", "red"), [RED_LEFT], detect=at(LEFT), segment=inside))
    assert scored == InstanceScore(in_place=True, in_colour=False, overlap=0.0)


@pytest.mark.parametrize(
    ("found", "overlap"), [((), 0.0), ((RIGHT,), 0.0), (((0.0, 0.0, 0.2, 1.0), RIGHT), 0.4)]
)
def test_what_is_out_of_place_keeps_its_overlap_and_nobody_looks_at_it(found, overlap):
    def segment(seen: Image.Image, box: Box) -> Image.Image:
        raise AssertionError(f"{seen} {box}")

    scored = one(score_picture(picture("red", "blue"), [RED_LEFT], detect=at(*found), segment=segment))
    assert not scored.in_place and not scored.right
    assert scored.overlap == pytest.approx(overlap)


def test_what_the_detector_is_not_sure_of_does_not_count():
    def detect(seen: Image.Image, thing: str) -> list[Detection]:
        assert seen.size == (SIDE, SIDE) and thing == "ball"
        return [Detection(box=LEFT, score=0.24)]

    assert not one(score_picture(picture("red", "blue"), [RED_LEFT], detect=detect, segment=inside)).in_place


def test_one_thing_serves_two_instances_unless_it_is_strict():
    wanted = [RED_LEFT, Wanted(colour="red", thing="ball", box=(0.05, 0.0, 0.5, 1.0))]
    image = picture("red", "blue")
    loose = score_picture(image, wanted, detect=at(LEFT), segment=inside)
    assert [score.right for score in loose] == [True, True]
    strict = score_picture(image, wanted, detect=at(LEFT), segment=inside, strict=True)
    assert [score.right for score in strict] == [True, False]
    assert strict[1].overlap == 0
    other = [RED_LEFT, Wanted(colour="red", thing="cube", box=LEFT)]  # of another class: its own detection
    assert all(
        score.right for score in score_picture(image, other, detect=at(LEFT), segment=inside, strict=True)
    )


def test_strict_serves_as_many_as_it_can():
    # The wide one fits both, and the first best; the narrow one fits the first only.
    first, second = (0.0, 0.0, 0.6, 1.0), (0.1, 0.0, 1.0, 1.0)
    wide, narrow = (0.0, 0.0, 0.65, 1.0), (0.0, 0.0, 0.35, 1.0)
    wanted = [Wanted(colour="red", thing="ball", box=box) for box in (first, second)]
    image = picture("red", "red")
    for found in ((wide, narrow), (narrow, wide)):
        scores = score_picture(image, wanted, detect=at(*found), segment=inside, strict=True)
        assert [score.right for score in scores] == [True, True]
        assert [score.overlap for score in scores] == pytest.approx([0.35 / 0.6, 0.55])


def test_strict_gives_each_its_own():
    boxes = (0.0, 0.0, 0.5, 1.0), (0.1, 0.0, 0.6, 1.0)  # either would do for the other
    wanted = [Wanted(colour="red", thing="ball", box=box) for box in boxes]
    for found in (boxes, boxes[::-1]):
        scores = score_picture(picture("red", "red"), wanted, detect=at(*found), segment=inside, strict=True)
        assert [score.overlap for score in scores] == pytest.approx([1, 1])


@pytest.mark.timeout(60)  # by all sets of boxes it took many minutes
def test_strict_is_quick_where_there_are_many():
    boxes = [(x / 5, y / 4, x / 5 + 0.2, y / 4 + 0.25) for y in range(4) for x in range(5)]
    wanted = [Wanted(colour="red", thing="ball", box=box) for box in boxes]
    image = picture("red", "red")
    scores = score_picture(image, wanted, detect=at(*boxes[::-1]), segment=inside, strict=True)
    assert [score.overlap for score in scores] == pytest.approx([1] * 20)


def test_of_two_on_one_place_the_surest_counts():
    better, surer = LEFT, (0.0, 0.0, 0.6, 1.0)
    scored = one(score_picture(picture("red", "red"), [RED_LEFT], detect=at(surer, better), segment=inside))
    assert scored.overlap == pytest.approx(0.5 / 0.6)


def test_the_summary_is_over_instances():
    good = InstanceScore(in_place=True, in_colour=True, overlap=0.8)
    bad = InstanceScore(in_place=False, in_colour=False, overlap=0.2)
    told = summary([[good, good], [good, bad, bad], [good, bad]])
    assert told["instance_success_rate"] == pytest.approx(4 / 7)
    assert told["image_success_rate"] == pytest.approx(1 / 3)
    assert told["mean_iou"] == pytest.approx((4 * 0.8 + 3 * 0.2) / 7)
    assert told["L2/image_success_rate"] == 0.5
    assert told["L3/instance_success_rate"] == pytest.approx(1 / 3)
    assert len(told) == 9
    with pytest.raises(DataError, match="no instance to be averaged"):
        summary([[]])


def test_the_benchmarks_phrases():
    assert Wanted.of("a red teddy bear", LEFT) == Wanted(colour="red", thing="teddy bear", box=LEFT)
    for phrase in ("a teddy bear", "red bear", "a red", "a purple bear", ""):
        with pytest.raises(DataError, match="is no instance of COCO-MIG"):
            Wanted.of(phrase, LEFT)
