import numpy as np
import pytest
import torch
from PIL import Image

from llava_patch import ClipImageConfig, Processor
from llava_patch.errors import ConfigError, DataError
from llava_patch.tokens import IGNORE

QUESTION, ANSWER = "what is this?", "A small red cat on the old mat. [A] [B]"


@pytest.fixture
def closing(processor: Processor) -> list[int]:
    """Ids of the tokens that close the answer."""
    processor.tokenizer.add_tokens(["[A]", "[B]"])
    return [*(processor.tokenizer.id_of(name) for name in ("[A]", "[B]")), processor.tokenizer.eos_id]


def test_the_pictures_stand_after_the_question(processor: Processor):
    block = "<im_start>" + "<im_patch>" * processor.patches + "<im_end>"
    assert processor.prompt(QUESTION) == f"USER: {QUESTION}\n{block} ASSISTANT:"
    assert processor.prompt(QUESTION, images=2) == f"USER: {QUESTION}\n{block}{block} ASSISTANT:"
    assert processor.prompt(QUESTION, "A cat.", images=0) == f"USER: {QUESTION} ASSISTANT: A cat.</s>"


@pytest.mark.parametrize("template", ["vicuna_v1_1", "brief", "plain"])
def test_labels_are_the_answer_and_its_end(processor: Processor, closing: list[int], template: str):
    processor = Processor(processor.tokenizer, processor.clip_image, processor.patches, template, True)
    encoded = processor.encode(QUESTION, ANSWER)
    spoken = [label for label in encoded.labels if label != IGNORE]
    assert processor.tokenizer.decode(spoken) == f"{ANSWER} </s>"
    assert (
        encoded.labels == [IGNORE] * (len(encoded.labels) - len(spoken)) + encoded.input_ids[-len(spoken) :]
    )
    assert spoken[-3:] == closing
    prompt = processor.encode(QUESTION)
    assert encoded.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert set(prompt.labels) == {IGNORE}


def test_an_answer_of_closing_tokens_only(processor: Processor, closing: list[int]):
    encoded = processor.encode(QUESTION, "[A] [B]")
    assert [label for label in encoded.labels if label != IGNORE] == closing


def test_cutting_takes_words_and_never_the_closing_tokens(processor: Processor, closing: list[int]):
    whole = processor.encode(QUESTION, ANSWER)
    words = sum(label != IGNORE for label in whole.labels) - len(closing)
    for excess in range(1, words + 1):
        cut = processor.encode(QUESTION, ANSWER, max_length=len(whole.input_ids) - excess)
        assert cut.dropped == excess
        assert len(cut.input_ids) == len(cut.labels) == len(whole.input_ids) - excess
        assert cut.input_ids[-3:] == cut.labels[-3:] == closing
        kept = len(cut.input_ids) - 3
        assert cut.input_ids[:kept] == whole.input_ids[:kept]
        assert cut.labels[:kept] == whole.labels[:kept]
    with pytest.raises(DataError, match=f"max_length={len(whole.input_ids) - words - 1}"):
        processor.encode(QUESTION, ANSWER, max_length=len(whole.input_ids) - words - 1)


def test_cutting_from_the_right_loses_the_closing_tokens(processor: Processor, closing: list[int]):
    whole = processor.encode(QUESTION, ANSWER)
    length = len(whole.input_ids) - 4
    cut = processor.encode(QUESTION, ANSWER, max_length=length, truncate="right")
    assert cut.input_ids == whole.input_ids[:length]
    assert cut.labels == whole.labels[:length]
    assert not set(closing) & set(cut.input_ids)


@pytest.mark.parametrize("question", ["is </s> the end?", "what is <unk>?"])
def test_the_reference_cannot_count_special_tokens_in_the_words(processor: Processor, question: str):
    sound = processor.encode(question, "A cat.")
    counted = processor.encode(question, "A cat.", truncate="right", max_length=1000)
    assert counted.input_ids == sound.input_ids
    assert set(counted.labels) == {IGNORE}
    spoken = processor.tokenizer.decode([label for label in sound.labels if label != IGNORE])
    assert spoken.strip() == "A cat.</s>"


def test_image_tokens_in_the_words_are_refused(processor: Processor):
    with pytest.raises(DataError, match=rf"{processor.patches + 1} <im_patch> tokens, expected 1 x"):
        processor.encode("what is <im_patch>?")


def test_padding_on_either_side(processor: Processor):
    pad = processor.tokenizer.pad_id
    ids, mask = processor.pad([[5, 6, 7], torch.tensor([8])])
    assert ids.tolist() == [[5, 6, 7], [8, pad, pad]]
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    ids, mask = processor.pad([[5, 6, 7], [8]], side="left")
    assert ids.tolist() == [[5, 6, 7], [pad, pad, 8]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]
    with pytest.raises(DataError, match="no rows"):
        processor.pad([])


@pytest.mark.parametrize("size", [(40, 28), (28, 61), (300, 200), (9, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_looks_are_clip_s(processor: Processor, size: tuple[int, int], mode: str):
    drawn = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    picture = Image.fromarray(drawn).convert(mode)
    clip_pixels = processor.clip_pixels(picture)
    config = processor.clip_image
    assert clip_pixels.shape == (3, config.size, config.size)
    assert clip_pixels.dtype == torch.float32

    # The same in Pillow and torch: shortest edge, centre, normalise.
    rgb = picture.convert("RGB")
    scale = config.edge / min(rgb.size)
    wide = [config.edge if side == min(rgb.size) else int(side * scale) for side in rgb.size]
    rgb = rgb.resize(tuple(wide), Image.Resampling(config.resample))
    left, top = (rgb.width - config.size) // 2, (rgb.height - config.size) // 2
    rgb = rgb.crop((left, top, left + config.size, top + config.size))
    values = torch.tensor(np.asarray(rgb)).permute(2, 0, 1) / 255
    expected = (values - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[:, None, None]
    assert torch.allclose(clip_pixels, expected, atol=1e-5)


def test_published_preprocessing_old_and_new():
    old = {"size": 30, "crop_size": 28, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    new = old | {"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 28}}
    assert ClipImageConfig.from_published(old) == ClipImageConfig.from_published(new)
    config = ClipImageConfig.from_published(new)
    assert ClipImageConfig.from_published(config.to_published()) == config
    with pytest.raises(ConfigError, match="shortest edge"):
        ClipImageConfig.from_published(old | {"size": {"height": 28, "width": 28}})


def test_saved_and_read_again(processor: Processor, folder):
    processor.save_pretrained(folder)
    again = Processor.from_pretrained(folder)
    assert again.conversation == processor.conversation
    assert again.clip_image == processor.clip_image
    assert again.encode(QUESTION, "A cat.") == processor.encode(QUESTION, "A cat.")
    assert Processor.from_pretrained(folder, template="plain").conversation.name == "plain"


def test_a_published_folder_speaks_vicuna_s_prompt(folder):
    assert Processor.from_pretrained(folder).conversation.name == "vicuna_v1_1"


def test_preprocessing_of_another_tower_is_refused(processor: Processor, folder):
    other = ClipImageConfig.clip(processor.clip_image.size * 2)
    Processor(processor.tokenizer, other, processor.patches, "brief", True).save_pretrained(folder)
    with pytest.raises(ConfigError, match="56 px, the vision tower takes 28"):
        Processor.from_pretrained(folder)
