"""Finders of transformers' own classes, random and small; what is made of their answers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finder_data import write_finders
from PIL import Image

from mgie.errors import ConfigError, DataError, DeviceError, WeightsError
from mgie.models import finders
from mgie.models.finders import (
    Detection,
    Finder,
    check_finders,
    intersection_over_union,
    open_detector,
    open_finder,
    open_segmenter,
    sure_ones,
)

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind."""
    return write_finders(tmp_path_factory.mktemp("finders"))


@pytest.mark.parametrize("kind", ["owlv2", "grounding-dino"])
def test_a_detector_finds_boxes_in_parts_of_the_picture(folders, kind: str):
    detect = open_detector(folders[kind])
    assert detect.threshold == {"owlv2": 0.2, "grounding-dino": 0.25}[kind]
    detect.threshold = 0.0
    found = detect(WIDE, "the dog")
    assert len(found) >= 3 and detect(WIDE, "the dog") == found
    for each in found:
        x0, y0, x1, y1 = each.box
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and 0 <= each.score <= 1
    assert detect(WIDE, "the") != found
    detect.threshold = sorted(each.score for each in found)[-2]
    assert 1 <= len(detect(WIDE, "the dog")) < len(found)


def answering(detect, corner: tuple[float, float, float, float], monkeypatch) -> Detection:
    """What becomes of a model's answer: one box, as centre and size in parts of what the model sees."""
    x0, y0, x1, y1 = corner
    box = torch.tensor([[[(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]]])
    answer = type("Answer", (), {"logits": torch.full((1, 1, 1), 3.0), "pred_boxes": box})
    # A module cannot be replaced by what is none.
    monkeypatch.setattr(type(detect.model), "forward", lambda *_, **__: answer)
    (found,) = detect(WIDE, "the dog")
    assert found.score == pytest.approx(torch.tensor(3.0).sigmoid().item())
    return found


def test_boxes_of_a_wide_picture(folders, monkeypatch):
    """OWLv2 sees 48 x 20 pixels as a square of 48, and nothing below its twentieth row."""
    owl = answering(open_detector(folders["owlv2"]), (0.25, 0.125, 0.5, 0.25), monkeypatch)
    assert owl.box == pytest.approx((0.25, 0.125 * 48 / 20, 0.5, 0.25 * 48 / 20), abs=1e-6)
    below = answering(open_detector(folders["owlv2"]), (0.25, 0.25, 0.5, 0.75), monkeypatch)
    assert below.box == pytest.approx((0.25, 0.25 * 48 / 20, 0.5, 1.0), abs=1e-6)
    dino = answering(open_detector(folders["grounding-dino"]), (0.25, 0.125, 0.5, 0.25), monkeypatch)
    assert dino.box == pytest.approx((0.25, 0.125, 0.5, 0.25), abs=1e-6)


def test_a_segmenter_s_mask_is_its_surest_one_at_the_picture_s_size(folders, monkeypatch):
    segment = open_segmenter(folders["sam"])
    mask = segment(WIDE, (0.1, 0.2, 0.6, 0.9))
    assert mask.size == WIDE.size and mask.mode == "L" and set(np.unique(mask)) <= {0, 255}
    logits = torch.full((1, 1, 3, 16, 16), -1.0)
    # 48 x 20 pixels fill 32 x 13 of the square that it sees: the right half of the second mask.
    logits[0, 0, 1, :, 8:] = 1.0
    seen = {}

    def answer(_self, **given):
        seen.update(given)
        scores = torch.tensor([[[0.1, 0.9, 0.5]]])
        return type("Answer", (), {"pred_masks": logits, "iou_scores": scores})

    monkeypatch.setattr(type(segment.model), "forward", answer)
    inside = np.asarray(segment(WIDE, (0.1, 0.2, 0.6, 0.9))) > 0
    assert inside[:, 26:].all() and not inside[:, :22].any()
    expected = [0.1 * 32, 0.2 * 13, 0.6 * 32, 0.9 * 13]  # in pixels of what it sees
    assert seen["input_boxes"].flatten().tolist() == pytest.approx(expected, abs=0.5)


def test_phrases_are_segmented_without_boxes(folders, monkeypatch):
    finder = open_finder(segmenter=folders["clipseg"])
    logits = torch.full((1, 32, 32), -4.0)
    logits[:, 16:] = 4.0
    kind = type(finder.read.model)
    monkeypatch.setattr(kind, "forward", lambda *_, **__: type("Answer", (), {"logits": logits}))
    inside = np.asarray(finder(WIDE, "the dog")) > 0
    assert inside.shape == (20, 48) and inside[11:].all() and not inside[:9].any()
    one = type("Answer", (), {"logits": logits[0]})  # of one picture, some versions leave the row out
    monkeypatch.setattr(kind, "forward", lambda *_, **__: one)
    assert np.array_equal(np.asarray(finder(WIDE, "the dog")) > 0, inside)
    with pytest.raises(DataError, match=r"the phrase .* has \d+ tokens, and this model reads at most 12"):
        finder(WIDE, "the dog " * 9)


def test_two_folders_together(folders):
    both = open_finder(folders["owlv2"], folders["sam"])
    assert both.segment is not None and both.read is None
    both.detect.threshold = 2.0
    with pytest.raises(DataError, match="nothing in the picture was found"):
        both(WIDE, "the dog")
    assert open_finder(folders["grounding-dino"], folders["clipseg"]).read is not None
    assert open_finder(folders["grounding-dino"]) is not None


# What is made of answers.

LEFT = Detection(box=(0.0, 0.0, 0.25, 1.0), score=0.5)
RIGHT = Detection(box=(0.75, 0.5, 1.0, 1.0), score=0.3)


def top(image: Image.Image, *_) -> Image.Image:
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, image.width, image.height * 3 // 4))
    return mask


def test_all_that_is_found_is_in_the_mask():
    boxes = np.asarray(Finder(detect=lambda *_: [LEFT, RIGHT])(WIDE, "the dog")) > 0
    assert boxes[:, :12].all() and boxes[10:, 36:].all() and boxes.sum() == 20 * 12 + 10 * 12
    cut = np.asarray(Finder(detect=lambda *_: [LEFT], segment=lambda image, _: top(image))(WIDE, "x")) > 0
    assert cut[:15].all() and not cut[15:].any()  # a segmenter may know better than the box
    within = np.asarray(Finder(detect=lambda *_: [LEFT, RIGHT], read=top)(WIDE, "the dog")) > 0
    assert within[:15, :12].all() and within[10:15, 36:].all() and within.sum() == 15 * 12 + 5 * 12


def test_nothing_found_is_no_mask():
    for finder in (Finder(detect=lambda *_: []), Finder(read=lambda image, _: Image.new("L", image.size))):
        with pytest.raises(DataError, match=r"nothing in dogs.png was found that is 'the dog': .* draw the"):
            finder(WIDE, " the  dog", name="dogs.png")
    with pytest.raises(DataError, match="the phrase is empty"):
        Finder(detect=lambda *_: [LEFT])(WIDE, "  ")
    with pytest.raises(DataError, match="mask is 3 x 3: expected 48 x 20"):
        Finder(detect=lambda *_: [LEFT], segment=lambda *_: Image.new("L", (3, 3)))(WIDE, "x")


def test_one_of_each_thing():
    found = [
        Detection(box=(0.0, 0.0, 1.0, side), score=score)
        for side, score in ((1.0, 0.3), (0.9, 0.5), (0.7, 0.4), (0.1, 0.2))
    ]
    assert [each.score for each in sure_ones(found)] == [0.5, 0.4]
    assert [each.score for each in sure_ones(found, 0.95)] == [0.5, 0.4, 0.3]
    assert [each.score for each in sure_ones(found, threshold=0.0)] == [0.5, 0.4, 0.2]


def test_intersection_over_union():
    assert intersection_over_union((0.0, 0.0, 2.0, 2.0), (1.0, 1.0, 3.0, 3.0)) == pytest.approx(1 / 7)
    assert intersection_over_union((0.0, 0.0, 1.0, 1.0), (2.0, 2.0, 3.0, 3.0)) == 0
    nothing = (0.0, 0.0, 0.0, 0.0)
    assert intersection_over_union(nothing, nothing) == 0


# What is refused.


def test_folders_that_cannot_be(folders, tmp_path, monkeypatch):
    def refused(kind: type, words: str, *given) -> None:
        with pytest.raises(kind, match=words):
            open_finder(*given)

    refused(ConfigError, "there is no model that reads words: give --detector FOLDER")
    refused(ConfigError, "sam, which needs boxes: give --detector", None, folders["sam"])
    refused(WeightsError, "nowhere is no model folder", "nowhere")
    refused(WeightsError, "of the kind sam: --detector expects owlv2 or grounding-dino", folders["sam"])
    refused(WeightsError, "of the kind owlv2: --segmenter expects sam", folders["owlv2"], folders["owlv2"])
    with pytest.raises(WeightsError, match="clipseg, which reads no boxes: expected sam"):
        open_segmenter(folders["clipseg"])
    (tmp_path / "config.json").write_text("[]")
    refused(WeightsError, "does not say what kind of model it is for", tmp_path)
    for name, words in (
        ("model.safetensors", "cannot be read as a Owlv2ForObjectDetection"),
        ("tokenizer.json", "cannot be read as a Owlv2Processor"),
        ("processor_config.json", "cannot be read as a Owlv2Processor"),
    ):
        damaged = tmp_path / name
        shutil.copytree(folders["owlv2"], damaged)
        for path in damaged.glob("vocab.json"):
            path.unlink()
        (damaged / name).unlink()
        check_finders(damaged, None)  # no file but one is looked at
        refused(WeightsError, words, damaged)
    monkeypatch.setattr(finders, "find_spec", lambda _: None)
    refused(DeviceError, r"scipy, which is not installed; .*'mgie\[eval\]'", folders["owlv2"])
