"""The objective, against a computation by hand from the same parts."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mgie.build import Parts, build_editor, build_teacher
from mgie.build_data import build_batches, build_examples
from mgie.config import RunConfig
from mgie.data.batches import collate
from mgie.data.stored_pairs import StoredPairs
from mgie.diffusion.guidance import DropConfig
from mgie.models.encoders.llava import LlavaEncoder
from mgie.tokens import IGNORE
from mgie.training.draws import draws_for
from mgie.training.task import EditTask
from mgie.types import Batch, Draws, Term

NEVER = DropConfig(text=0.0, both=0.0, image=0.0)
BY_HAND = 1e-5
"""A sample alone and the same in a padded batch differ by the order of sums; measured below 1e-6."""


@pytest.fixture
def run(tiny_run: Callable[..., RunConfig]) -> RunConfig:
    return tiny_run()


@pytest.fixture
def parts(run: RunConfig) -> Parts:
    return build_editor(run)


@pytest.fixture
def batch(run: RunConfig, parts: Parts) -> Batch:
    """The first four pairs of the run."""
    return next(build_batches(run, parts.prompts, rank=0, world=1).steps())[0]


@pytest.fixture
def draws(run: RunConfig, parts: Parts, batch: Batch) -> Draws:
    shape = parts.editor.codec.latent_shape(*batch.target.shape[-2:])
    return draws_for(run.seed, batch.positions, latent_shape=shape, process=parts.process, shift=1.0)


def encoder_of(parts: Parts) -> LlavaEncoder:
    assert isinstance(parts.editor.encoder, LlavaEncoder)
    return parts.editor.encoder


def what_the_denoiser_sees(parts: Parts, batch: Batch, draws: Draws, drop: DropConfig) -> tuple[Tensor, ...]:
    """Noisy latents, times, source latents and condition of one forward."""
    seen: list[tuple[Tensor, ...]] = []
    handle = parts.editor.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    EditTask(parts.editor, parts.process, drop=drop)(batch, draws)
    handle.remove()
    return seen[0]


def test_the_speaking_loss_is_the_sum_of_cross_entropies(parts, batch, draws):
    losses = EditTask(parts.editor, parts.process, drop=NEVER)(batch, draws)
    llava, total, count = encoder_of(parts).llava, torch.zeros(()), 0
    for row in range(len(batch.keys)):
        ids, labels = batch.input_ids[row][batch.mask[row]], batch.labels[row][batch.mask[row]]
        states = llava(
            ids[None], torch.ones_like(ids[None], dtype=torch.bool), batch.clip_pixels[row : row + 1]
        )[0]
        scores = llava.logits(states).log_softmax(-1)
        for place in range(1, len(ids)):
            if labels[place] != IGNORE:
                total -= scores[place - 1, labels[place]]
                count += 1
    assert int(losses["ce"].count) == count
    torch.testing.assert_close(losses["ce"].sum, total, rtol=BY_HAND, atol=BY_HAND)


def test_the_painting_loss_is_the_sum_of_mean_squares(parts, batch, draws):
    losses = EditTask(parts.editor, parts.process, drop=NEVER)(batch, draws)
    encoder, vae = encoder_of(parts), parts.editor.codec.vae
    table = encoder.llava.language_model.model.embed_tokens.weight
    total = torch.zeros(())
    for row in range(len(batch.keys)):
        one = slice(row, row + 1)
        # The condition: states one place left of each visual token, plus the tokens' rows of the table.
        first = batch.input_ids[row].tolist().index(encoder.visual_ids[0])
        states = encoder.llava(batch.input_ids[one], batch.mask[one], batch.clip_pixels[one])
        visual = states[:, first - 1 : first - 1 + len(encoder.visual_ids)]
        condition = encoder.edit_head(visual, table[list(encoder.visual_ids)])
        # The picture: target scaled, source not, and zeros where there is none.
        target = vae.encode(batch.target[one]).latent * vae.config.scaling_factor
        source = vae.encode(batch.source[one]).latent * batch.has_source[row]
        kept = parts.process.schedule.alphas_cumprod[draws.t[row]]
        noisy = kept.sqrt() * target + (1 - kept).sqrt() * draws.noise[one]
        unet = parts.editor.denoiser.unet
        guess = unet(torch.cat([noisy, source], 1), draws.t[one], encoder_hidden_states=condition).sample
        assert parts.process.schedule.config.prediction_type == "sample"
        total += (guess - target).square().mean()
    torch.testing.assert_close(losses["edit"].sum, total, rtol=BY_HAND, atol=BY_HAND)


def test_a_dropped_condition_is_the_null_and_a_dropped_source_is_zero(parts, batch, draws):
    draws = replace(draws, keep=torch.tensor([0.05, 0.15, 0.25, 0.9]))  # no words, neither, no picture, both
    _, _, whole_source, whole = what_the_denoiser_sees(parts, batch, draws, NEVER)
    drop = DropConfig(text=0.1, both=0.1, image=0.1)
    _, _, source, condition = what_the_denoiser_sees(parts, batch, draws, drop)
    encoder = encoder_of(parts)
    embeddings = encoder.visual_embeddings()
    null = encoder.edit_head(torch.zeros_like(embeddings)[None], embeddings)
    for row, words, picture in ((0, False, True), (1, False, False), (2, True, False), (3, True, True)):
        torch.testing.assert_close(condition.tokens[row], whole.tokens[row] if words else null[0])
        assert torch.equal(source[row], whole_source[row] if picture else torch.zeros_like(source[row]))
    assert not torch.allclose(whole.tokens[0], null[0], atol=1e-3)


def test_dropping_leaves_the_speaking_loss_alone(parts, batch, draws):
    losses = [
        EditTask(parts.editor, parts.process, drop=drop)(batch, draws)
        for drop in (NEVER, DropConfig(text=1.0, both=0.0, image=0.0))
    ]
    assert torch.equal(losses[0]["ce"].sum, losses[1]["ce"].sum)
    assert not torch.equal(losses[0]["edit"].sum, losses[1]["edit"].sum)


def test_a_pair_without_a_source_shows_the_denoiser_zeros(parts, batch, draws):
    batch = replace(batch, has_source=torch.tensor([True, False, True, False]))
    _, _, source, _ = what_the_denoiser_sees(parts, batch, draws, NEVER)
    assert [bool(row.any()) for row in source] == [True, False, True, False]


def test_the_painting_loss_teaches_whoever_made_the_condition(parts, batch, draws):
    EditTask(parts.editor, parts.process, drop=NEVER)(batch, draws)["edit"].sum.backward()
    encoder = encoder_of(parts)
    rows = encoder.llava.language_model.model.embed_tokens.weight.grad
    assert rows is not None and rows[list(encoder.visual_ids)].abs().sum(-1).all()
    for parameters in (encoder.edit_head.parameters(), parts.editor.denoiser.parameters()):
        assert all(parameter.grad is not None for parameter in parameters)
    assert all(parameter.grad is None for parameter in parts.editor.codec.parameters())
    # What the model says is the other loss's affair.
    assert encoder.llava.language_model.lm_head.weight.grad is None


def test_a_pair_without_words_is_painted_from_its_visual_tokens(run, parts, draws):
    builder, pairs = build_examples(run, parts.prompts), StoredPairs(run.data.path, "train")
    silent = [builder(replace(pairs[index], expressive="")) for index in range(4)]
    batch = collate(silent, positions=(0, 1, 2, 3), pad_id=builder.pad_id)
    losses = EditTask(parts.editor, parts.process, drop=NEVER)(batch, draws)
    assert losses["ce"].count == 4 * (8 + 1)  # the visual tokens and the end
    assert torch.isfinite(losses["edit"].sum)


def test_the_teacher_pulls_the_condition_to_what_it_makes_of_the_words(run, parts, batch, draws):
    teacher = build_teacher(run, parts)
    assert teacher is not None
    task = EditTask(parts.editor, parts.process, drop=NEVER, teacher=teacher)
    losses = task(batch, draws)
    pairs, tokenizer = StoredPairs(run.data.path, "train"), parts.prompts.processor.tokenizer
    encoder, total = encoder_of(parts), torch.zeros(())
    context = encoder.encode(batch)
    for row, key in enumerate(batch.keys):
        said = next(pair.expressive for pair in pairs if pair.key == key)
        places = teacher.text_model.config.max_position_embeddings
        words = (tokenizer.encode(said, bos=False) + [tokenizer.eos_id] * places)[:places]
        nothing = [tokenizer.eos_id] * places
        states = teacher.text_model(input_ids=torch.tensor([words, nothing])).last_hidden_state
        wanted = states[:, -teacher.pooled :]
        total += (context.condition.tokens[row] - wanted[0]).square().mean()
        total += (context.null.tokens[0] - wanted[1]).square().mean()
    torch.testing.assert_close(losses["align"].sum, total, rtol=BY_HAND, atol=BY_HAND)
    plain = EditTask(parts.editor, parts.process, drop=NEVER)(batch, draws)
    assert list(plain) == ["ce", "edit"]
    assert all(torch.equal(plain[name].sum, losses[name].sum) for name in plain)


def test_the_teacher_teaches_the_head_and_learns_nothing(run, parts, batch, draws):
    teacher = build_teacher(run, parts)
    assert teacher is not None
    EditTask(parts.editor, parts.process, drop=NEVER, teacher=teacher)(batch, draws)["align"].sum.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in encoder_of(parts).edit_head.parameters())
    assert all(parameter.grad is None for parameter in parts.editor.denoiser.parameters())


def test_counts_are_known_before_the_losses_and_are_theirs(run, parts, batch, draws):
    task = EditTask(parts.editor, parts.process, drop=NEVER, teacher=build_teacher(run, parts))
    losses = task(batch, draws)
    assert task.counts(batch) == {name: int(term.count) for name, term in losses.items()}
    assert list(task.weights) == list(losses) == ["ce", "edit", "align"]


def test_each_loss_has_its_weight_and_its_count(run, parts):
    weights = {"edit_weight": 0.5, "align_weight": 4.0}
    task = EditTask(parts.editor, parts.process, drop=NEVER, teacher=build_teacher(run, parts), **weights)
    sums, counts = {"ce": 12.0, "edit": 8.0, "align": 6.0}, {"ce": 3, "edit": 4, "align": 2}
    losses = {name: Term(sum=torch.tensor(value), count=1) for name, value in sums.items()}
    total = task.weighted(losses, counts)
    assert total == 12 / 3 + 0.5 * 8 / 4 + 0.5 * 4 * 6 / 2
