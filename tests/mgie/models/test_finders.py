"""Finders of transformers' own classes, random and small; what is made of their answers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    SamConfig,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
    SwinConfig,
    ViTImageProcessorPil,
)

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

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = {"height": 32, "width": 32}
WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 48, 3), dtype=np.uint8))


def clip_tokenizer(folder: Path, longest: int) -> CLIPTokenizer:
    words = ["a", "d", "e", "g", "h", "o", "t", "e</w>", "g</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=longest)


def clip_text(longest: int) -> dict:
    ids = {"vocab_size": 11, "bos_token_id": 9, "eos_token_id": 10, "pad_token_id": 10}
    return SMALL | ids | {"max_position_embeddings": longest}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind, as transformers writes it."""
    place = tmp_path_factory.mktemp("finders")
    found = {name: place / name for name in ("owlv2", "grounding-dino", "sam", "clipseg")}
    torch.manual_seed(0)

    tokenizer = clip_tokenizer(found["owlv2"], 16)
    seen = SMALL | {"image_size": 32, "patch_size": 8}
    owl = Owlv2Config(text_config=clip_text(16), vision_config=seen, projection_dim=16)
    model = Owlv2ForObjectDetection(owl)
    for values in (*model.box_head.parameters(), *model.class_head.parameters()):
        values.data.mul_(0.01)  # drawn so wide that all boxes are empty
    model.save_pretrained(found["owlv2"])
    Owlv2Processor(Owlv2ImageProcessorPil(size=SIDE), tokenizer).save_pretrained(found["owlv2"])

    (found["grounding-dino"]).mkdir()
    vocabulary = found["grounding-dino"] / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ndog\n.")
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, image_size=32,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    dino = GroundingDinoConfig(
        backbone_config=backbone, text_config={"model_type": "bert", "vocab_size": 8} | SMALL, num_queries=6,
        d_model=32, max_text_len=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    GroundingDinoForObjectDetection(dino).save_pretrained(found["grounding-dino"])
    sizes = {"shortest_edge": 64, "longest_edge": 160}
    GroundingDinoProcessor(
        GroundingDinoImageProcessorPil(size=sizes), BertTokenizer(str(vocabulary))
    ).save_pretrained(found["grounding-dino"])

    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "mlp_dim": 16}
    sam = SamConfig(
        vision_config=layers | {"output_channels": 16, "image_size": 32, "patch_size": 8, "window_size": 2,
                                "num_pos_feats": 8, "global_attn_indexes": [1]},
        prompt_encoder_config={"hidden_size": 16, "image_size": 32, "patch_size": 8,
                               "mask_input_channels": 4},
        mask_decoder_config=layers | {"iou_head_hidden_dim": 16},
    )  # fmt: skip
    SamModel(sam).save_pretrained(found["sam"])
    SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": 32}, pad_size=SIDE, mask_size={"longest_edge": 8},
            mask_pad_size={"height": 8, "width": 8},
        )
    ).save_pretrained(found["sam"])  # fmt: skip

    tokenizer = clip_tokenizer(found["clipseg"], 12)
    clipseg = CLIPSegConfig(
        text_config=clip_text(12), vision_config=seen, projection_dim=16, reduce_dim=16,
        decoder_num_attention_heads=2, decoder_intermediate_size=16, extract_layers=[0, 1],
    )  # fmt: skip
    CLIPSegForImageSegmentation(clipseg).save_pretrained(found["clipseg"])
    CLIPSegProcessor(ViTImageProcessorPil(size=SIDE), tokenizer).save_pretrained(found["clipseg"])
    return found


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
