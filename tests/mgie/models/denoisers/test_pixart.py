from dataclasses import dataclass

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from mgie.controllers.masking import EditMasking
from mgie.errors import DataError, WeightsError
from mgie.models.denoisers.hooked import unhooked
from mgie.models.denoisers.pixart import PixArtDenoiser, widen_pixart
from mgie.types import Condition, ControlPlan, Rows

SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 8, "out_channels": 8, "num_layers": 2,
    "cross_attention_dim": 16, "sample_size": 16, "patch_size": 2, "norm_elementwise_affine": False,
    "caption_channels": 24, "interpolation_scale": 1, "use_additional_conditions": False,
}  # fmt: skip


def transformer(**changes) -> PixArtTransformer2DModel:
    torch.manual_seed(0)
    return PixArtTransformer2DModel(**SIZES | {"in_channels": 8} | changes).eval()


def given(rows: int = 3, side: int = 16):
    rng = torch.Generator().manual_seed(1)
    noisy, source = torch.randn(2, rows, 4, side, side, generator=rng)
    mask = torch.arange(5) < torch.tensor([5, 3, 2])[:rows, None]
    return noisy, source, Condition(tokens=torch.randn(rows, 5, 24, generator=rng), mask=mask)


T = torch.tensor([999.0, 499.5, 3.0])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plan", [None, ControlPlan()])
def test_without_a_plan_it_is_the_library_bit_for_bit(dtype, plan):
    own = transformer().to(dtype)
    noisy, source, condition = given()
    condition = Condition(tokens=condition.tokens.to(dtype), mask=condition.mask)
    noisy, source = noisy.to(dtype), source.to(dtype)
    guess = PixArtDenoiser(own)(noisy, T, source, condition, plan)
    plain = unhooked(own)(
        torch.cat([noisy, source], 1), encoder_hidden_states=condition.tokens, timestep=T,
        encoder_attention_mask=condition.mask, return_dict=False,
    )[0]  # fmt: skip
    assert guess.spread is not None and guess.mean.dtype is dtype
    assert torch.equal(torch.cat([guess.mean, guess.spread], 1), plain)


@torch.no_grad()
def test_no_source_is_a_blank_one():
    denoiser, (noisy, _, condition) = PixArtDenoiser(transformer()), given()
    without = denoiser(noisy, T, None, condition).mean
    assert torch.equal(without, denoiser(noisy, T, torch.zeros_like(noisy), condition).mean)
    assert not torch.equal(without, denoiser(noisy, T, noisy, condition).mean)


@torch.no_grad()
def test_masked_tokens_do_not_count_and_times_may_be_fractional():
    denoiser, (noisy, source, condition) = PixArtDenoiser(transformer()), given()
    assert condition.mask is not None
    others = torch.where(condition.mask[..., None], condition.tokens, 100.0)
    told = denoiser(noisy, T, source, condition).mean
    assert torch.equal(told, denoiser(noisy, T, source, Condition(tokens=others, mask=condition.mask)).mean)
    assert not torch.equal(told[1], denoiser(noisy, T.floor(), source, condition).mean[1])


@torch.no_grad()
def test_a_widened_transformer_paints_what_it_painted():
    noisy, source, condition = given()
    plain = transformer(in_channels=4)
    before = plain(noisy, encoder_hidden_states=condition.tokens, timestep=T, return_dict=False,
                   encoder_attention_mask=condition.mask)[0]  # fmt: skip
    widened = widen_pixart(plain)
    assert widened is widen_pixart(widened) and widened.config.in_channels == 8
    after = PixArtDenoiser(widened)(noisy, T, source, condition)
    assert after.spread is not None
    torch.testing.assert_close(torch.cat([after.mean, after.spread], 1), before, rtol=1e-5, atol=1e-6)


@dataclass
class Doubled:
    """Doubles what comes out of cross-attention in the rows of T."""

    order: int = 20
    during: tuple[float, float] = (0.0, 1.0)

    def wants(self, site):
        return site.cross

    def __call__(self, call, attend):
        out = attend(call)
        assert call.grid == (8, 8) and out.shape[1] == 64
        mask = torch.zeros(len(out), 1, 1, dtype=torch.bool)
        mask[call.rows.of("T")] = True
        return torch.where(mask, 2 * out, out)


@torch.no_grad()
def test_a_hook_reaches_its_rows_only():
    denoiser, (noisy, source, condition) = PixArtDenoiser(transformer()), given()
    rows = Rows(names=("T", "I", "U"), batch=1)
    plain = denoiser(noisy, T, source, condition).mean
    hooked = denoiser(noisy, T, source, condition, ControlPlan(attention=(Doubled(),)), rows).mean
    assert torch.equal(hooked[1:], plain[1:]) and not torch.equal(hooked[0], plain[0])


@torch.no_grad()
def test_what_a_hook_has_it_hear_is_read_as_a_condition_is():
    """Outside a mask all of the words are those that say nothing: so where nothing is inside, it is as if
    they alone had been said."""
    denoiser, (noisy, source, condition) = PixArtDenoiser(transformer()), given()
    null = Condition(tokens=condition.tokens.flip(0), mask=condition.mask)
    masking = EditMasking(masks={(8, 8): torch.zeros(3, 1, 8, 8)}, null=null.tokens, null_mask=null.mask)
    masked = denoiser(noisy, T, source, condition, ControlPlan(attention=(masking,))).mean
    told, silent = (denoiser(noisy, T, source, each).mean for each in (condition, null))
    assert (masked - silent).abs().max() < 1e-5 and (masked - told).abs().max() > 1e-2


def test_recomputed_activations_give_the_same_gradients():
    found = []
    for recomputed in (False, True):
        denoiser, (noisy, source, condition) = PixArtDenoiser(transformer()).train(), given()
        if recomputed:
            denoiser.checkpoint_activations(whole=True)
        denoiser(noisy, T, source, condition).mean.square().sum().backward()
        found.append([each.grad for each in denoiser.parameters() if each.grad is not None])
    assert denoiser.transformer.gradient_checkpointing and len(found[0]) > 20
    torch.testing.assert_close(*found)


@torch.no_grad()
def test_patches_are_the_first_thing_it_makes_of_latents():
    denoiser, (noisy, _, _) = PixArtDenoiser(transformer()), given(side=12)
    embed = denoiser.transformer.pos_embed
    blank = torch.cat([noisy, torch.zeros_like(noisy)], 1)
    assert torch.equal(denoiser.patches(noisy), embed.proj(blank).flatten(2).transpose(1, 2))
    assert denoiser.patches(noisy).shape == (3, 36, denoiser.patch_width)


def test_what_it_cannot_do_is_refused():
    denoiser, (noisy, source, condition) = PixArtDenoiser(transformer()), given()
    with pytest.raises(DataError, match="heeds no blend"):
        denoiser(noisy, T, source, condition, ControlPlan(blend=lambda latents, _: latents))
    with pytest.raises(DataError, match="2 pictures before the edit"):
        denoiser(noisy, T, (source, source), condition)
    with pytest.raises(DataError, match="pooled or sizes"):
        denoiser(noisy, T, source, Condition(tokens=condition.tokens, pooled=torch.zeros(3, 2)))
    with pytest.raises(WeightsError, match="takes 4 channels, gives 8"):
        PixArtDenoiser(transformer(in_channels=4))
    with pytest.raises(WeightsError, match="wants sizes"):
        PixArtDenoiser(
            transformer(use_additional_conditions=True, attention_head_dim=12, cross_attention_dim=24)
        )
