from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from llava_patch import Generated, Llava, Processor
from llava_patch.errors import DataError
from llava_patch.model import build_parts

BUDGET = 12


@pytest.fixture
def rows(processor: Processor) -> list[list[int]]:
    questions = ["what is this?", "and what may that thing over there be, if anything?", "is it red?"]
    return [processor.encode(question).input_ids for question in questions]


def answer(
    model: Llava, processor: Processor, rows: list, clip_pixels: Tensor, side: str = "right", **options
) -> Generated:
    ids, mask = processor.pad(rows, side)
    return model.generate(ids, mask, clip_pixels, **{"max_new_tokens": BUDGET, "eos_id": -1} | options)


@torch.no_grad()
def test_each_word_is_the_likeliest_and_states_are_one_forward_s(model: Llava, processor, rows, clip_pixels):
    generated = answer(model, processor, rows[:1], clip_pixels(1))
    ids = generated.ids[0]
    states = model(ids[None], torch.ones(1, len(ids)).bool(), clip_pixels(1))[0]
    (read,) = model.read(generated)
    assert torch.allclose(read, states[:-1], atol=1e-5)
    start = len(generated.prompts[0])
    assert ids[:start].tolist() == rows[0]
    assert model.logits(states)[start - 1 : -1].argmax(-1).tolist() == generated.new_ids(0)
    assert len(generated.new_ids(0)) == BUDGET


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("ngram", [0, 1, 3])
def test_a_batch_gives_each_row_what_it_gets_alone(
    model: Llava, processor, rows, clip_pixels, side: str, ngram: int
):
    # The rows end at different times: the first after three words, the third after one, the second never.
    alone = [
        answer(model, processor, [row], clip_pixels(3)[[i]], no_repeat_ngram_size=ngram)
        for i, row in enumerate(rows)
    ]
    stops = (alone[0].new_ids(0)[2], alone[2].new_ids(0)[0])
    options = {"no_repeat_ngram_size": ngram, "stop": stops}
    alone = [answer(model, processor, [row], clip_pixels(3)[[i]], **options) for i, row in enumerate(rows)]
    together = answer(model, processor, rows, clip_pixels(3), side, **options)
    assert len(set(map(len, together.ids))) > 1
    states = model.read(together)
    for row, one in enumerate(alone):
        assert together.ids[row].tolist() == one.ids[0].tolist()
        assert together.endings[row] == one.endings[0]
        assert torch.allclose(together.prompts[row], one.prompts[0], atol=1e-5)
        assert torch.allclose(states[row], model.read(one)[0], atol=1e-5)


def test_nothing_is_said_twice_when_that_is_forbidden(model: Llava, processor, rows, clip_pixels):
    free = answer(model, processor, rows[:1], clip_pixels(1), max_new_tokens=40).new_ids(0)
    strict = answer(model, processor, rows[:1], clip_pixels(1), max_new_tokens=40, no_repeat_ngram_size=1)
    assert len(set(free)) < len(free), "the model must repeat itself for this test to mean anything"
    assert not set(strict.new_ids(0)) & set(rows[0])
    assert len(set(strict.new_ids(0))) == len(strict.new_ids(0))


def test_padding_is_nothing_that_was_said(model: Llava, processor, rows, clip_pixels):
    # With padding counted as text, two pads on the left would forbid a pad after a pad.
    short = [processor.tokenizer.bos_id, processor.tokenizer.pad_id]
    ids, mask = processor.pad([rows[1], short], "left")
    ids_alone, mask_alone = processor.pad([short])
    model.language_model.lm_head.weight.data.zero_()
    together = model.generate(ids, mask, clip_pixels(1), max_new_tokens=3, no_repeat_ngram_size=2, eos_id=-1)
    alone = model.generate(ids_alone, mask_alone, max_new_tokens=3, no_repeat_ngram_size=2, eos_id=-1)
    assert together.new_ids(1) == alone.new_ids(0)
    assert alone.new_ids(0)[0] == processor.tokenizer.pad_id


def test_endings(model: Llava, processor, rows, clip_pixels):
    said = answer(model, processor, rows[:1], clip_pixels(1)).new_ids(0)
    third = said.index(said[2]) + 1
    for options, ending, count in (
        ({"eos_id": said[2]}, "eos", third),
        ({"stop": (said[2],)}, "stop", third),
        ({"max_new_tokens": 2}, "budget", 2),
        ({"max_new_tokens": third, "stop": (said[2],)}, "stop", third),
    ):
        generated = answer(model, processor, rows[:1], clip_pixels(1), **options)
        assert generated.endings == (ending,)
        assert generated.new_ids(0) == said[:count]
        assert len(model.read(generated)[0]) == len(generated.ids[0]) - 1


def test_the_language_model_s_own_end(model: Llava, processor, rows, clip_pixels):
    said = answer(model, processor, rows[:1], clip_pixels(1)).new_ids(0)
    model.language_model.config.eos_token_id = said[0]
    assert answer(model, processor, rows[:1], clip_pixels(1), eos_id=None).endings == ("eos",)


@pytest.mark.parametrize("then", [(7,), (7, 8, 9)])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_tokens_that_follow_are_read_in_one_forward(
    model: Llava, processor, rows, clip_pixels, then, side: str
):
    plain = answer(model, processor, rows, clip_pixels(3), max_new_tokens=5)
    stop = plain.new_ids(0)[1]
    plain = answer(model, processor, rows, clip_pixels(3), max_new_tokens=5, stop=(stop,))
    assert set(plain.endings) == {"stop", "budget"}
    followed = answer(model, processor, rows, clip_pixels(3), side, max_new_tokens=5, stop=(stop,), then=then)
    assert followed.endings == plain.endings
    read = model.read(followed)
    for row, ending in enumerate(plain.endings):
        said = plain.new_ids(row)[: -1 if ending == "stop" else None]
        assert followed.new_ids(row) == [*said, *then]
        ids = followed.ids[row][None]
        states = model(ids, torch.ones_like(ids).bool(), clip_pixels(3)[[row]])[0]
        assert torch.allclose(read[row], states[:-1], atol=1e-5)


def test_prompts_and_budgets_that_make_no_sense(model: Llava, processor, rows, clip_pixels):
    with pytest.raises(DataError, match="max_new_tokens is 0"):
        answer(model, processor, rows, clip_pixels(3), max_new_tokens=0)
    ids, mask = processor.pad([rows[0], []])
    with pytest.raises(DataError, match="row 1 of the batch has no tokens"):
        model.generate(ids, mask, clip_pixels(1), max_new_tokens=1)


def test_nothing_is_read_beyond_the_model_s_positions(model: Llava, processor, rows, clip_pixels):
    """Each row stops where it would stop alone, with room for what is appended."""
    then, config = (5, 6), model.language_model.config
    free = answer(model, processor, rows, clip_pixels(3))
    config.max_position_embeddings = max(map(len, rows)) + len(then) + 3
    together = answer(model, processor, rows, clip_pixels(3), then=then)
    for row, prompt in enumerate(rows):
        said = min(BUDGET, config.max_position_embeddings - len(prompt) - len(then))
        assert together.new_ids(row) == [*free.new_ids(row)[:said], *then]
        assert together.endings[row] == "budget"
    # What a row would have said after its last place does not end it.
    longest = max(range(3), key=lambda row: len(rows[row]))
    stop = (free.new_ids(longest)[3],)
    stopped = answer(model, processor, rows, clip_pixels(3), then=then, stop=stop)
    assert stopped.new_ids(longest) == together.new_ids(longest)
    assert stopped.endings[longest] == "budget"
    config.max_position_embeddings = max(map(len, rows)) + len(then)
    with pytest.raises(DataError, match=r"tokens, but the language model reads \d+ in all, .*shorten"):
        answer(model, processor, rows, clip_pixels(3), then=then)
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    stretched = answer(model, processor, rows, clip_pixels(3), then=then)
    assert [len(stretched.new_ids(row)) for row in range(3)] == [BUDGET + len(then)] * 3


def test_how_a_folder_would_sample_is_not_how_it_is_asked(model: Llava, processor, rows, clip_pixels):
    """Published configurations carry habits of their demos; the answer stays the likeliest words."""
    free = answer(model, processor, rows, clip_pixels(3)).new_ids(0)
    habits = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "min_new_tokens": BUDGET}
    language = LlamaConfig(**model.config.language.to_dict() | habits | {"eos_token_id": free[0]})
    parts = build_parts(replace(model.config, language=language), attn_implementation="sdpa")
    other = Llava(model.config, model.tokens, **parts)
    other.load_state_dict(model.state_dict())
    for stop in ((), (free[2],)):
        said, again = (answer(each, processor, rows, clip_pixels(3), stop=stop) for each in (model, other))
        assert [ids.tolist() for ids in again.ids] == [ids.tolist() for ids in said.ids]
