from dataclasses import replace

import pytest
import torch

from mgie.errors import DataError
from mgie.models.denoisers.unet import UNetDenoiser, widen
from mgie.types import Condition, ControlPlan

NOISY, SOURCE = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
T, CONDITION = torch.tensor([3, 700]), torch.randn(2, 5, 6)
TOLD = Condition(tokens=CONDITION)


def test_a_widened_unet_keeps_its_weights_and_bias(make_unet):
    unet = make_unet(4)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    unet.conv_in.bias.data.fill_(3.0)
    before["conv_in.bias"] = unet.conv_in.bias.data.clone()
    assert widen(unet) is unet
    after = unet.state_dict()
    first = after["conv_in.weight"]
    assert torch.equal(first[:, :4], before["conv_in.weight"])
    assert not first[:, 4:].any()
    assert all(torch.equal(after[name], before[name]) for name in before if name != "conv_in.weight")
    assert unet.config.in_channels == unet.conv_in.in_channels == 8


@torch.no_grad()
def test_a_widened_unet_paints_what_it_painted_before(make_unet):
    unet = make_unet(4)
    before = unet(NOISY, T, encoder_hidden_states=CONDITION).sample
    after = UNetDenoiser(widen(unet))(NOISY, T, SOURCE, TOLD).mean
    assert torch.allclose(after, before, atol=1e-6)


def test_a_unet_that_sees_a_source_already_is_left_alone(make_unet):
    unet = make_unet(8)
    weight = unet.conv_in.weight
    assert widen(unet).conv_in.weight is weight


@torch.no_grad()
def test_the_noisy_half_comes_first_and_the_source_is_seen(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    assert (denoiser.latent_channels, denoiser.condition_width) == (4, 6)
    expected = denoiser.unet(torch.cat([NOISY, SOURCE], 1), T, encoder_hidden_states=CONDITION).sample
    assert torch.equal(denoiser(NOISY, T, SOURCE, TOLD).mean, expected)
    assert not torch.allclose(denoiser(NOISY, T, -SOURCE, TOLD).mean, expected, atol=1e-4)


@torch.no_grad()
def test_a_unet_without_a_place_for_the_source_paints_new_pictures(make_unet):
    unet = make_unet(4)
    denoiser = UNetDenoiser(unet)
    assert not denoiser.sees_source
    expected = unet(NOISY, T, encoder_hidden_states=CONDITION).sample
    assert torch.equal(denoiser(NOISY, T, None, TOLD).mean, expected)
    with pytest.raises(DataError, match="this UNet cannot see one"):
        denoiser(NOISY, T, SOURCE, TOLD)
    with pytest.raises(AssertionError, match="neither"):
        UNetDenoiser(make_unet(6))


@torch.no_grad()
def test_without_a_source_zeros_are_seen(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    nothing = denoiser(NOISY, T, torch.zeros_like(SOURCE), TOLD).mean
    assert torch.equal(denoiser(NOISY, T, None, TOLD).mean, nothing)


@torch.no_grad()
def test_what_a_unet_cannot_heed_is_refused(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    plain = denoiser(NOISY, T, SOURCE, TOLD).mean
    assert torch.equal(denoiser(NOISY, T, SOURCE, TOLD, ControlPlan()).mean, plain)
    with pytest.raises(DataError, match="heeds no guidance of a plan"):
        denoiser(NOISY, T, SOURCE, TOLD, ControlPlan(guidance=torch.ones(2, 1, 8, 8)))
    with pytest.raises(DataError, match="there are 2 pictures before the edit"):
        denoiser(NOISY, T, (SOURCE, SOURCE), TOLD)
    for more in ({"pooled": torch.ones(2, 3)}, {"sizes": torch.ones(2, 6)}):
        with pytest.raises(DataError, match=f"has {next(iter(more))}: this UNet expects nothing"):
            denoiser(NOISY, T, SOURCE, replace(TOLD, **more))
    denoiser.unet.register_to_config(addition_embed_type="text_time")
    for more, there in (({}, "nothing"), ({"sizes": torch.ones(2, 6)}, "sizes")):
        with pytest.raises(DataError, match=f"has {there}: this UNet expects pooled and sizes"):
            denoiser(NOISY, T, SOURCE, replace(TOLD, **more))


@torch.no_grad()
def test_masked_tokens_of_the_condition_do_not_count(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    other = torch.cat([CONDITION[:, :3], torch.randn(2, 2, 6)], dim=1)
    one, two = (denoiser(NOISY, T, SOURCE, Condition(tokens=t, mask=mask)).mean for t in (CONDITION, other))
    assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
