"""What the encoder promises of any batch; its numbers are in tests/parity/test_mige.py."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mgie.errors import DataError, WeightsError
from mgie.models.encoders.fusion import FeatureFusion
from mgie.types import Asked, Pictures

QUERIES = 3


def asked(prompts, rows: list[tuple[str, int]], seed: int = 0) -> Asked:
    """Questions with so many pictures each, random ones."""
    rng = torch.Generator().manual_seed(seed)
    told = [prompts.question(text, sizes=[(28, 28)] * (count + 1)) for text, count in rows]
    pictures = sum(count + 1 for _, count in rows)
    made = prompts.asked(told, [torch.randn(pictures, 3, 28, 28, generator=rng)])
    latents = torch.randn(pictures, 4, 16, 16, generator=rng)
    return replace(made, pictures=replace(made.pictures, latents=latents))


def answer(encoder, request: Asked):
    return encoder.answer(request, max_new_tokens=1, no_repeat_ngram_size=0).context


ROWS = [("make it dark", 0), ("replace the circle in <source> by <image>", 1), ("a square with <image>", 1)]


def test_an_untrained_fusion_changes_nothing():
    semantic, visual = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    with torch.no_grad():
        assert torch.equal(FeatureFusion(8, 6, heads=2, out_norm=False)(semantic, visual), semantic)
        normed = FeatureFusion(8, 6, heads=2)(semantic, visual)
    assert torch.equal(normed, nn.functional.layer_norm(semantic, (8,), eps=1e-6))


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(mige):
    together = answer(mige.editor.encoder, request := asked(mige.prompts, ROWS)).condition
    assert request.pictures is not None and request.pictures.latents is not None
    for row in range(len(ROWS)):
        own = request.pictures.at[:, 0] == row
        at, latents = request.pictures.at[own] * torch.tensor([0, 1]), request.pictures.latents[own]
        one = Asked(
            input_ids=request.input_ids[row : row + 1], mask=request.mask[row : row + 1],
            clip_pixels=request.clip_pixels[own],
            pictures=Pictures(at=at, latents=latents),
        )  # fmt: skip
        alone = answer(mige.editor.encoder, one).condition
        torch.testing.assert_close(alone.tokens[0], together.tokens[row], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_picture_counts_by_its_looks_and_by_its_latents_in_its_own_row(mige):
    request = asked(mige.prompts, ROWS)
    before = answer(mige.editor.encoder, request).condition.tokens
    assert request.pictures is not None and request.pictures.latents is not None
    clip, latents = request.clip_pixels.clone(), request.pictures.latents.clone()
    clip[2] += 1
    latents[2] *= 2
    seen = answer(mige.editor.encoder, replace(request, clip_pixels=clip))
    fused = answer(mige.editor.encoder, replace(request, pictures=replace(request.pictures, latents=latents)))
    for after in (seen.condition.tokens, fused.condition.tokens):
        assert torch.equal(after[0], before[0]) and torch.equal(after[2], before[2])
        assert not torch.allclose(after[1], before[1])


@torch.no_grad()
def test_places_are_filled_in_order_and_only_they(mige):
    encoder, request = mige.editor.encoder, asked(mige.prompts, ROWS)
    words = encoder.text.get_input_embeddings()(request.input_ids)
    assert request.pictures is not None and request.pictures.latents is not None
    seen = encoder.image_features(request.clip_pixels)
    mixed = encoder.mixed(words, seen, request.pictures)
    tokens = encoder.picture_tokens(seen, request.pictures.latents)
    changed = torch.zeros(words.shape[:2], dtype=torch.bool)
    for (row, first), expected in zip(request.pictures.at.tolist(), tokens):
        assert torch.equal(mixed[row, first : first + QUERIES], expected)
        changed[row, first : first + QUERIES] = True
    assert torch.equal(mixed[~changed], words[~changed])


def test_without_a_picture_all_parameters_still_have_a_gradient(mige):
    encoder = mige.editor.encoder.train()
    request = mige.prompts.asked([mige.prompts.mixed([[5, 6]], most=48)], [torch.zeros(0, 3, 28, 28)])
    with torch.enable_grad():
        context = encoder.read(
            request.input_ids, request.mask, encoder.image_features(request.clip_pixels), request.pictures
        )
        context.condition.tokens.sum().backward()
    without = [name for name, value in encoder.named_parameters() if value.grad is None]
    assert not without
    assert not encoder.fusion.mlp.weight.grad.any() and encoder.text.shared.weight.grad.any()
    silent = encoder.eval().read(request.input_ids, request.mask, torch.zeros(0, 5, 16), None)
    assert torch.equal(silent.condition.tokens, context.condition.tokens)


def test_the_null_is_a_table_as_long_as_the_prompt(mige):
    encoder = mige.editor.encoder
    context = encoder.read(torch.tensor([[5, 6, 1]]), torch.ones(1, 3).bool(), torch.zeros(0, 5, 16), None)
    assert torch.equal(context.null.tokens, encoder.null[None, :3]) and context.null.mask is None


def test_every_parameter_is_in_one_group(mige):
    encoder = mige.editor.encoder
    named = [id(each) for members in encoder.groups().values() for each in members]
    assert sorted(named) == sorted(id(each) for each in encoder.parameters())
    assert encoder.vision.post_layernorm.weight is encoder.groups()["qformer"][1]
    assert set(encoder.groups()) == {"vision_tower", "qformer", "fusion", "projector", "text_encoder"}


def test_what_does_not_go_together_is_refused(mige):
    encoder, request = mige.editor.encoder, asked(mige.prompts, ROWS)
    with pytest.raises(DataError, match="places for 5 pictures, features of 4"):
        answer(encoder, replace(request, clip_pixels=request.clip_pixels[:4]))
    with pytest.raises(DataError, match="latents of 0"):
        answer(encoder, replace(request, pictures=replace(request.pictures, latents=None)))
    with pytest.raises(DataError, match="60 tokens, expected at most 48"):
        encoder.read(torch.ones(1, 60).long(), torch.ones(1, 60).bool(), torch.zeros(0, 5, 16), None)
    with pytest.raises(WeightsError, match="patches of width 16, and the Linear has none"):
        encoder.meet(nn.Linear(1, 1))


def test_too_many_words_are_cut_and_pictures_are_not(mige, caplog):
    long = " ".join(["red"] * 60)
    told = mige.prompts.question(f"{long} <image> in <source>", sizes=[(28, 28)] * 2)
    assert len(told.input_ids) == 48 and told.input_ids[-1] == 1
    assert [which for which, _ in told.placed] == [0, None]
    assert "too long and was cut" in caplog.text
    mige.prompts.strict = True
    strict = mige.prompts.question(f"{long} <image> in <source>", sizes=[(28, 28)] * 2)
    assert not strict.placed and strict.input_ids[-1] != 1
    mige.prompts.strict = False
    with pytest.raises(DataError, match="17 pictures take 51 places of 48"):
        mige.prompts.question(" ".join(["a <image>"] * 16), sizes=[(28, 28)] * 17)
