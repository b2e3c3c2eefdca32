"""A thing cut out of a picture: the surest detection, black around it, cropped to its box."""

import numpy as np
from controlled_data import PAINT, detect, painted, segment
from PIL import Image, ImageChops

from mgie.evaluation.measures.cutting import Cutter
from mgie.models.finders import Detection

BOX = (0.25, 0.5, 0.5, 1.0)


def test_the_thing_alone():
    cut, found = Cutter(detector=detect, segmenter=segment)(painted(("ball", BOX)), "a ball")
    assert found and cut.size == (16, 32)
    assert (np.asarray(cut) == PAINT["ball"]).all()


def test_what_the_mask_leaves_out_is_black():
    def upper(picture, _):
        mask = Image.new("L", picture.size)
        mask.paste(255, (0, 0, picture.width, 48))
        return mask

    cut, _ = Cutter(detector=detect, segmenter=upper)(painted(("ball", BOX)), "a ball")
    values = np.asarray(cut)
    assert (values[:16] == PAINT["ball"]).all() and not values[16:].any()


def test_the_surest_one_counts_and_doubtful_ones_do_not():
    def several(score):
        return lambda *_: [
            Detection(box=(0.0, 0.0, 0.5, 0.5), score=score),
            Detection(box=BOX, score=score - 0.01),
        ]

    picture = painted(("ball", BOX))
    cut, found = Cutter(detector=several(0.9), segmenter=segment)(picture, "a ball")
    assert found and cut.size == (32, 32)
    whole, found = Cutter(detector=several(0.29), segmenter=segment)(picture, "a ball")
    assert not found and not ImageChops.difference(whole, picture).getbbox()
