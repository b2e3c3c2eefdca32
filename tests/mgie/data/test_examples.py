import pytest
import torch
from torch import nn

from mgie.data.batches import Batches, collate
from mgie.data.examples import ExampleBuilder
from mgie.data.images import decode, square, to_pixels
from mgie.errors import DataError
from mgie.prompts import AbstractPrompts, Conversation, LlavaPrompts
from mgie.tokens import IGNORE

QUESTION = "what will this image be like if '{instruction}'"


def builder(processor, **changes):
    compat = changes.get("compat", "default")
    prompts = LlavaPrompts(processor, question=QUESTION, count=4, compat=compat)
    return ExampleBuilder(prompts, **({"size": 8, "max_length": 200} | changes))


def test_an_example_in_words(processor, make_pair):
    example = builder(processor)(make_pair(1))
    tokenizer = processor.tokenizer
    text = tokenizer.decode(example.input_ids.tolist())
    assert text.startswith("<s>USER: what will this image be like if 'make it very red'")
    assert text.endswith("It is red, number 1. [IMG0] [IMG1] [IMG2] [IMG3] </s>")
    spoken = example.labels != IGNORE
    assert tokenizer.decode(example.labels[spoken].tolist()).startswith("It is red")
    assert torch.equal(example.labels[spoken], example.input_ids[spoken])
    predicted = example.input_ids[example.read_at + 1].tolist()
    assert predicted == [tokenizer.id_of(f"[IMG{k}]") for k in range(4)]


def test_training_and_inference_share_the_prompt(processor, make_pair):
    example = builder(processor)(make_pair(1))
    asked = builder(processor).prompts.question(make_pair(1).instruction, sizes=[(8, 8)])
    first = int((example.labels != IGNORE).nonzero()[0])
    assert example.input_ids[:first].tolist() == asked.input_ids


def test_pictures_come_from_one_square(processor, make_pair, make_picture):
    pair = make_pair(0, source=make_picture(30, 20, 7), target=make_picture(30, 20, 8))
    example = builder(processor)(pair)
    crop = square(decode(pair.source, name="it"), 20)
    assert torch.allclose(example.source, to_pixels(square(crop, 8)), atol=1.01 * 2 / 255)  # one in 255
    assert torch.allclose(example.clip_pixels[0], processor.clip_pixels(crop), atol=1.01 / 255 / 0.26)
    assert (
        example.target.shape == (3, 8, 8)
        and example.clip_pixels.shape == (1, 3, 16, 16)
        and example.has_source
    )


class Patches(AbstractPrompts):
    """As many tokens to a picture as it has patches of 4 x 4 pixels, and their number beside the ids."""

    def conversation(self, instruction, expressive, *, sizes, max_length):
        told = self.question(instruction, sizes=sizes)
        ids = [*told.input_ids, *expressive.encode()][:max_length]
        return Conversation(input_ids=ids, labels=[IGNORE] * len(ids), extras=told.extras)

    def question(self, instruction, *, sizes):
        places = sum(width // 4 * (height // 4) for width, height in sizes)
        ids = [300] * places + list(instruction.encode())
        return Conversation(input_ids=ids, extras={"kinds": (torch.tensor(ids) == 300).long()})

    def together(self, extras, mask):
        kinds = torch.zeros_like(mask, dtype=torch.long)
        kinds[mask] = torch.cat([nn.functional.pad(each["kinds"], (0, int(row.sum()) - len(each["kinds"])))
                                 for each, row in zip(extras, mask)])  # fmt: skip
        return {"kinds": kinds}

    def clip_pixels(self, image):
        if image is None:
            return torch.zeros(0, 48)
        pixels = to_pixels(image.crop((0, 0, image.width // 4 * 4, image.height // 4 * 4)))
        return pixels.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).reshape(-1, 48)


def test_a_model_may_need_as_many_tokens_as_a_picture_has_patches(make_pair, make_picture, monkeypatch):
    build = ExampleBuilder(Patches(), size=8, max_length=200)
    small, large, none = (make_picture(side + 4, side, 3) for side in (8, 16, 12))
    pairs = [make_pair(0, source=small), make_pair(1, source=large), make_pair(2, source=None, target=none)]
    (batch,) = next(Batches(pairs, build, seed=0, batch_size=3, micro_batch_size=3).steps())
    patches = {"pair-0": 4, "pair-1": 16, "pair-2": 0}
    for row, key in enumerate(batch.keys):
        assert batch.extras["kinds"][row].sum() == patches[key] == (batch.input_ids[row] == 300).sum()
    assert batch.clip_pixels.shape == (20, 48) and batch.to("meta").extras["kinds"].is_meta

    # With stored features the size comes from the head of the file: nothing is decoded.
    stored = {"clip_features": torch.zeros(4, 2), "source_moments": torch.zeros(8, 1, 1),
              "target_moments": torch.zeros(8, 1, 1)}  # fmt: skip
    plain = [build(pair) for pair in pairs]
    monkeypatch.setattr("mgie.data.examples.decode", None)
    for pair, example in zip(pairs, plain):
        again = build(pair, None, stored)
        assert torch.equal(again.input_ids, example.input_ids) and again.clip_pixels.shape == (0, 48)

    questions = [build.prompts.question("go", sizes=[(side, side)]) for side in (8, 16)]
    asked = build.prompts.asked(questions, [torch.zeros(4, 48), torch.zeros(16, 48)])
    assert asked.extras["kinds"].tolist() == (asked.input_ids == 300).long().tolist()


def test_a_model_that_sees_squares_opens_no_file_for_their_size(processor, make_pair, monkeypatch):
    stored = {"clip_features": torch.zeros(4, 2), "source_moments": torch.zeros(8, 1, 1),
              "target_moments": torch.zeros(8, 1, 1)}  # fmt: skip
    monkeypatch.setattr("mgie.data.examples.upright_size", None)
    assert builder(processor)(make_pair(1), None, stored).has_source


def test_without_a_source_there_is_no_picture_in_the_prompt(processor, make_pair):
    example = builder(processor)(make_pair(0, source=None))
    assert not example.has_source and not example.source.any() and example.clip_pixels.shape == (0, 3, 16, 16)
    assert processor.tokenizer.id_of("<im_patch>") not in example.input_ids
    assert (
        builder(processor).prompts.question("make it red", sizes=[]).input_ids
        == example.input_ids[: int((example.labels >= 0).nonzero()[0])].tolist()
    )


def test_the_expressive_text_is_shortened_never_the_visual_tokens(processor, make_pair):
    whole = builder(processor)(make_pair(1))
    short = builder(processor, max_length=len(whole.input_ids) - 5)(make_pair(1))
    assert short.input_ids[-5:].tolist() == whole.input_ids[-5:].tolist()
    assert short.input_ids[:-5].tolist() == whole.input_ids[:-10].tolist()
    assert (short.read_at == whole.read_at - 5).all()
    with pytest.raises(DataError, match=r"^pair pair-1: "):
        builder(processor, max_length=20)(make_pair(1))


def test_the_reference_cuts_from_the_right(processor, make_pair):
    build = builder(processor, compat="reference")
    whole = build(make_pair(1))
    assert torch.equal(whole.input_ids, builder(processor)(make_pair(1)).input_ids)
    length = len(whole.input_ids) - 6
    data = Batches(
        [make_pair(1)],
        builder(processor, compat="reference", max_length=length),
        seed=0,
        batch_size=1,
        micro_batch_size=1,
    )
    (batch,) = next(data.steps())
    assert batch.input_ids[0].tolist() == whole.input_ids[:length].tolist()
    assert batch.read_at[0].tolist() == [length - 5 + k for k in range(4)]


def test_the_reference_reads_a_row_without_labels_at_the_end_of_its_batch(processor, make_pair):
    """However much shorter the row is than another one."""
    build = builder(processor, compat="reference")
    pairs = [make_pair(0, instruction="</s>"), make_pair(1, instruction="make it very red " * 12)]
    examples = [build(pair) for pair in pairs]
    short, long = (len(example.input_ids) for example in examples)
    assert (examples[0].labels == IGNORE).all() and long > 2 * short + 5
    batch = collate(examples, positions=(0, 1), pad_id=build.pad_id)
    assert batch.read_at[0].tolist() == list(range(long - 5, long - 1))


def test_the_reference_resizes_twice(processor, make_pair, make_picture):
    pair = make_pair(0, source=make_picture(40, 40, 1), target=make_picture(40, 40, 2))
    twice = to_pixels(square(square(decode(pair.source, name="it"), 512), 8))
    assert torch.equal(builder(processor, compat="reference")(pair).source, twice)
    assert not torch.equal(builder(processor)(pair).source, twice)


def test_braces_and_quotes_in_the_instruction_stay(processor, make_pair):
    example = builder(processor)(make_pair(0, instruction="write '{instruction}' {x}"))
    assert "if 'write '{instruction}' {x}'" in processor.tokenizer.decode(example.input_ids.tolist())


def test_shapes_keep_the_aspect(processor, make_pair, make_picture):
    wide = make_pair(0, source=make_picture(30, 14), target=make_picture(30, 14))
    example = builder(processor, shapes=[(8, 8), (16, 8)])(wide)
    assert example.target.shape == (3, 8, 16) and example.source.shape == (3, 8, 16)


def test_errors_name_the_pair(processor, make_pair):
    for changes in (
        {"target": b"x"},
        {"source": b"x"},
        {"instruction": "add <im_patch>"},
        {"expressive": "[IMG0] is"},
        {"expressive": "It is [IMG0][IMG1][IMG2][IMG3] red"},
    ):
        with pytest.raises(DataError, match="pair-1"):
            builder(processor)(make_pair(1, **changes))


def test_pictures_in_an_instruction_are_for_another_model(processor, make_pair, make_picture):
    with pytest.raises(DataError, match=r"pair-1 has pictures .* this model reads no pictures"):
        builder(processor)(make_pair(1, instruction="add <image>", pictures=(make_picture(),)))
