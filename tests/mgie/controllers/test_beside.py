import pytest
import torch
from diffusers import UNet2DConditionModel

from mgie.controllers.beside import BesideBlocks
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.types import Condition, Rows


def denoiser() -> UNetDenoiser:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(8, 16), cross_attention_dim=6, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2, norm_num_groups=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return UNetDenoiser(unet).eval()


def blocks(painting: UNetDenoiser, *, trained: bool = True) -> BesideBlocks:
    made = BesideBlocks({name: widths[0] for name, widths in painting.attentions.items()}, width=5)
    for name, value in made.named_parameters():
        if trained and "to_v" in name:
            value.data.normal_()
    return made


def given(rows: int):
    rng = torch.Generator().manual_seed(1)
    noisy, source = torch.randn(2, rows, 4, 6, 9, generator=rng)
    t, tokens = torch.full((rows,), 400), torch.randn(rows, 3, 6, generator=rng)
    return (noisy, t, source, Condition(tokens=tokens)), torch.randn(2, 4, 5, generator=rng)


MASK = torch.tensor([[True, True, False, False], [True, True, True, True]])
ROWS = Rows(names=("T", "I", "U"), batch=2)


@torch.no_grad()
def test_untrained_it_changes_no_bit():
    painting = denoiser()
    asked, tokens = given(6)
    plan = blocks(painting, trained=False).plan(tokens, MASK)
    assert torch.equal(painting(*asked, plan, ROWS).mean, painting(*asked).mean)


@torch.no_grad()
def test_only_the_rows_of_words_hear_of_it():
    painting = denoiser()
    (asked, tokens), plain = given(6), denoiser()(*given(6)[0]).mean
    told = painting(*asked, blocks(painting).plan(tokens, MASK), ROWS).mean
    assert torch.equal(told[2:], plain[2:])
    assert not torch.equal(told[0], plain[0]) and not torch.equal(told[1], plain[1])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_who_has_no_token_or_is_not_told_keeps_the_bits(dtype):
    painting = denoiser().to(dtype)
    own = blocks(painting).to(dtype)
    (noisy, t, source, condition), tokens = given(2)
    asked = (noisy.to(dtype), t, source.to(dtype), Condition(tokens=condition.tokens.to(dtype)))
    plain = painting(*asked).mean
    nothing = MASK & torch.tensor([[False], [True]])
    without = painting(*asked, own.plan(tokens, nothing)).mean
    untold = painting(*asked, own.plan(tokens, MASK, torch.tensor([False, True]))).mean
    assert torch.equal(without[0], plain[0]) and torch.equal(untold[0], plain[0])
    assert torch.equal(without[1], untold[1]) and not torch.equal(without[1], plain[1])
    assert without.isfinite().all()


@torch.no_grad()
def test_masked_tokens_do_not_count():
    painting = denoiser()
    own, (asked, tokens) = blocks(painting), given(2)
    others = torch.where(MASK[..., None], tokens, 9.0)
    first, second = (painting(*asked, own.plan(each, MASK)).mean for each in (tokens, others))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


def test_gradients_are_the_same_when_activations_are_computed_again():
    grads = []
    for again in (False, True):
        painting = denoiser().train()
        if again:
            painting.unet.enable_gradient_checkpointing()
        torch.manual_seed(2)
        own, (asked, tokens) = blocks(painting), given(2)
        with torch.enable_grad():
            painting(*asked, own.plan(tokens, MASK)).mean.square().sum().backward()
        grads.append({name: value.grad for name, value in own.named_parameters()})
    assert all(value is not None and value.any() for value in grads[0].values())
    assert all(torch.allclose(value, grads[1][name], rtol=1e-5) for name, value in grads[0].items())
