import copy

import pytest
import torch

from llava_patch import Llava, LlavaConfig, Processor
from llava_patch.errors import ConfigError, DataError
from llava_patch.model import positions
from llava_patch.tokens import ImageTokens


@pytest.fixture
def rows(processor: Processor) -> list[list[int]]:
    questions = ["what is this?", "and what may that thing over there be, if anything?", "is it red?"]
    return [processor.encode(question).input_ids for question in questions]


def test_random_values_follow_from_the_seed_alone(config: LlavaConfig, tokenizer):
    tokens = ImageTokens.of(tokenizer, use_im_start_end=True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (Llava.from_config(config, tokens, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.projector.weight, same.projector.weight)
    assert not torch.equal(one.projector.weight, other.projector.weight)


def test_only_the_tower_is_frozen(model: Llava):
    for name, value in model.named_parameters():
        assert value.requires_grad != name.startswith("vision_tower."), name


def test_type_and_place(model: Llava):
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert model.to(torch.bfloat16).dtype == torch.bfloat16


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(model: Llava, processor: Processor, rows: list, clip_pixels):
    alone = [
        model(torch.tensor([row]), torch.ones(1, len(row)).bool(), clip_pixels(3)[[i]])
        for i, row in enumerate(rows)
    ]
    for side in ("left", "right"):
        ids, mask = processor.pad(rows, side)
        states = model(ids, mask, clip_pixels(3))
        assert states.isfinite().all()
        for index, one in enumerate(alone):
            assert torch.allclose(states[index][mask[index]], one[0], atol=1e-5)


@torch.no_grad()
def test_stored_features_give_the_same_states(model: Llava, processor: Processor, rows: list, clip_pixels):
    ids, mask = processor.pad(rows)
    assert torch.equal(
        model(ids, mask, clip_pixels(3)), model(ids, mask, features=model.features(clip_pixels(3)))
    )


@torch.no_grad()
def test_the_picture_is_seen(model: Llava, processor: Processor, rows: list, clip_pixels):
    ids, mask = processor.pad(rows)
    seen, other = model(ids, mask, clip_pixels(3)), model(ids, mask, -clip_pixels(3))
    first = (ids == model.tokens.patch).int().argmax(1)
    for row, place in enumerate(first.tolist()):
        assert torch.equal(seen[row, :place], other[row, :place])
        assert not torch.allclose(seen[row, place], other[row, place], atol=1e-3)


def test_words_alone(model: Llava, processor: Processor):
    ids, mask = processor.pad([processor.encode("hello", images=0).input_ids])
    assert model(ids, mask).shape == (1, ids.shape[1], model.config.language.hidden_size)


def test_states_and_logits_are_the_language_model_s(model: Llava, processor: Processor):
    ids, mask = processor.pad([processor.encode("hello", images=0).input_ids])
    expected = model.language_model(ids, attention_mask=mask).logits
    assert torch.allclose(model.logits(model(ids, mask)), expected, atol=1e-5)


def test_gradients_reach_both_tables_and_the_projector(
    model: Llava, processor: Processor, rows: list, clip_pixels
):
    ids, mask = processor.pad(rows)
    model.logits(model(ids, mask, clip_pixels(3))[:, -1]).logsumexp(-1).sum().backward()
    language = model.language_model
    for value in (language.model.embed_tokens.weight, language.lm_head.weight, model.projector.weight):
        assert value.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.vision_tower.parameters())


@pytest.mark.parametrize("count", [2, 4])
def test_pictures_and_placeholders_are_counted(
    model: Llava, processor: Processor, rows: list, clip_pixels, count: int
):
    ids, mask = processor.pad(rows)
    with pytest.raises(DataError, match=f"12 <im_patch> tokens, but {count} pictures give {count} x 4"):
        model(ids, mask, clip_pixels(count))


def test_growing(model: Llava):
    size = model.vocabulary
    model.grow(8, generator=torch.Generator().manual_seed(0))
    assert model.vocabulary == model.config.language.vocab_size == size + 8
    assert model.logits(torch.zeros(1, model.config.language.hidden_size)).shape == (1, size + 8)


def test_the_caller_s_configuration_is_left_alone(config: LlavaConfig, model: Llava):
    size = config.language.vocab_size
    model.grow(8)
    assert config.language.vocab_size == size


def test_positions_count_from_the_first_token():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


@torch.no_grad()
def test_casting_leaves_the_rotary_frequencies_alone(
    model: Llava, processor: Processor, rows: list, clip_pixels
):
    before = model.language_model.model.rotary_emb.inv_freq.clone()
    cast = copy.deepcopy(model).to(torch.bfloat16)
    assert torch.equal(cast.language_model.model.rotary_emb.inv_freq, before)
    assert cast.projector.weight.dtype == torch.bfloat16
    ids, mask = processor.pad(rows)
    assert cast(ids, mask, clip_pixels(3)).dtype == torch.bfloat16


HALF = {
    "tower": ["vision_tower"],
    "tower and projector": ["vision_tower", "projector"],
    "layers": ["vision_tower", "language_model.model.layers", "language_model.model.norm"],
    "tables": ["language_model.model.embed_tokens", "language_model.lm_head"],
    "lm_head": ["language_model.lm_head"],
}


@pytest.mark.parametrize("parts", HALF.values(), ids=HALF)
def test_parts_of_several_types(model: Llava, processor: Processor, rows: list, clip_pixels, parts: list):
    """Each hands over to the next in the next one's type, in speaking as in training."""
    ids, mask = processor.pad(rows)
    said = model.generate(ids, mask, clip_pixels(3), max_new_tokens=3, eos_id=-1)
    whole, states = model(ids, mask, clip_pixels(3)), model.read(said)
    for part in parts:
        model.get_submodule(part).to(torch.bfloat16)
    mixed = model(ids, mask, clip_pixels(3))
    scale = whole[mask].abs().max()
    apart = (mixed[mask] - whole[mask]).abs().max() / scale
    assert apart < 0.1 and (apart > 0) == (parts != HALF["lm_head"])
    model.logits(mixed[mask]).float().logsumexp(-1).sum().backward()
    trained = [value for value in model.language_model.parameters() if value.dtype == torch.float32]
    assert all(value.grad is not None and value.grad.isfinite().all() for value in trained)
    generated = model.generate(ids, mask, clip_pixels(3), max_new_tokens=3, eos_id=-1)
    assert all(map(len, map(generated.new_ids, range(3))))
    for one, other in zip(model.read(said), states):
        assert (one - other).abs().max() / scale < 0.1


def test_frozen_tables_take_no_precision_from_layers_that_are_trained(
    model: Llava, processor: Processor, rows: list, clip_pixels
):
    ids, mask = processor.pad(rows)
    table = model.language_model.model.embed_tokens
    rounded = table.weight.data.bfloat16()
    table.weight.data = rounded.float()
    whole = model(ids, mask, clip_pixels(3))
    table.weight.data = rounded
    assert torch.equal(model(ids, mask, clip_pixels(3)), whole)


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu(model: Llava, processor: Processor, rows: list, clip_pixels):
    ids, mask = processor.pad(rows, "left")
    here = model(ids, mask, clip_pixels(3))[mask]
    said = model.generate(ids, mask, clip_pixels(3), max_new_tokens=5, then=(7, 8))
    model, batch = model.cuda(), (ids.cuda(), mask.cuda(), clip_pixels(3).cuda())
    assert torch.allclose(model(*batch)[batch[1]].cpu(), here, atol=1e-3)
    there = model.generate(*batch, max_new_tokens=5, then=(7, 8))
    assert [row.tolist() for row in there.ids] == [row.tolist() for row in said.ids]


def test_parts_of_different_models(model: Llava, config: LlavaConfig):
    parts = {"vision_tower": model.vision_tower, "language_model": model.language_model}
    with pytest.raises(ConfigError, match="from width 9 to 16"):
        Llava(config, model.tokens, projector=torch.nn.Linear(9, 16), **parts)


def test_attention_that_is_not_there(config: LlavaConfig, model: Llava):
    with pytest.raises(ConfigError, match="'flash_attention_9' is not known: expected one of sdpa"):
        Llava.from_config(config, model.tokens, attn_implementation="flash_attention_9")


@torch.no_grad()
def test_attention_is_the_library_s_switch(
    config: LlavaConfig, model: Llava, processor: Processor, rows: list, clip_pixels
):
    other = Llava.from_config(config, model.tokens, attn_implementation="eager")
    other.load_state_dict(model.state_dict())
    ids, mask = processor.pad(rows)
    assert torch.allclose(
        model(ids, mask, clip_pixels(3))[mask], other(ids, mask, clip_pixels(3))[mask], atol=1e-5
    )
