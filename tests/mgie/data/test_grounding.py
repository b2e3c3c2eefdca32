import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mgie.data.grounding import SIDE, check_box, grounded, stanza_parser
from mgie.data.images import decode_mask
from mgie.errors import DataError, DeviceError, WeightsError
from mgie.models.finders import Detection

TREES = ["(NP (NP (DT a) (JJ red) (NN ball)) (PP (IN on) (NP (DT the) (NNS tables))))", "(NP (NN sky))"]
PICTURE = Image.new("RGB", (40, 20), "white")


def detect(seen: Image.Image, phrase: str) -> list[Detection]:
    """Two balls and one almost like the first, no table, and a sky that it is not sure of."""
    assert seen.size == (SIDE, SIDE)
    return {
        "a red ball": [
            Detection(box=(0.5, 0.5, 1.0, 1.0), score=0.4),
            Detection(box=(0.0, 0.0, 0.5, 0.5), score=0.6),
            Detection(box=(0.0, 0.0, 0.51, 0.5), score=0.5),
        ],
        "sky": [Detection(box=(0.0, 0.0, 1.0, 0.5), score=0.2)],
    }.get(phrase, [])


def test_captions_become_regions():
    regions = grounded(PICTURE, "A red ball on the tables. Sky", parse=lambda _: TREES, detect=detect)
    assert [(region.phrase, region.box) for region in regions] == [
        ("a red ball", (0.0, 0.0, 0.5, 0.5)),
        ("a red ball", (0.5, 0.5, 1.0, 1.0)),
    ]
    assert all(region.mask is None for region in regions)


def test_masks_have_the_pictures_own_size():
    def segment(_seen: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        left, top, right, bottom = (int(side * SIDE) for side in box)
        mask[top:bottom, left:right] = 255
        return Image.fromarray(mask)

    first, second = grounded(PICTURE, "", parse=lambda _: TREES, detect=detect, segment=segment)
    mask = np.asarray(decode_mask(first.mask, name="mask"))
    assert mask.shape == (20, 40)
    assert mask[:10, :20].all() and not mask[10:].any() and not mask[:, 20:].any()
    assert second.mask != first.mask
    with pytest.raises(DataError, match="mask is 3 x 3: expected 512 x 512"):
        small = Image.new("L", (3, 3))
        grounded(PICTURE, "", parse=lambda _: TREES, detect=detect, segment=lambda *_: small)


def test_a_box_in_pixels_is_refused():
    found = [Detection(box=(0.0, 0.0, 300.0, 200.0), score=0.9)]
    with pytest.raises(DataError, match=r"box of 'sky' is 0, 0, 300, 200: .*divide pixels by"):
        grounded(PICTURE, "", parse=lambda _: TREES[1:], detect=lambda *_: found)


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.0, 0.5, 1.0),
        (0.0, 1.0, 1.0, 0.0),
        (-0.1, 0.0, 1.0, 1.0),
        (0.0, 0.0, float("nan"), 1.0),
        (0.0, 0.0, 1.0, 1.01),
    ],
)
def test_boxes_that_cannot_be(box):
    with pytest.raises(DataError, match=r"this is .*expected x0, y0, x1, y1 as parts"):
        check_box(box, "this")


def test_a_parser_without_its_package_or_its_models(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "stanza", None)
    with pytest.raises(DeviceError, match=r"stanza, .*pip install 'mgie\[grounding\]'"):
        stanza_parser(tmp_path)
    monkeypatch.setitem(sys.modules, "stanza", SimpleNamespace())
    with pytest.raises(WeightsError, match="is no folder of Stanza's models"):
        stanza_parser(tmp_path)


def test_every_sentence_that_the_parser_gives(monkeypatch, tmp_path):
    asked = {}

    def pipeline(language: str, **given):
        asked.update(given, language=language)
        sentences = [SimpleNamespace(constituency=tree) for tree in TREES]
        return lambda _caption: SimpleNamespace(sentences=sentences)

    (tmp_path / "resources.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "stanza", SimpleNamespace(Pipeline=pipeline))
    assert stanza_parser(tmp_path)("two sentences") == TREES
    assert asked["download_method"] is None and asked["dir"] == str(tmp_path)
