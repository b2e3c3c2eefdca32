import copy

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLWan, AutoencoderTiny

from mgie.errors import DataError, WeightsError
from mgie.models.codec import Codec

PIXELS = torch.rand(2, 3, 8, 12) * 2 - 1


def test_shapes_follow_from_the_vae(vae: AutoencoderKL):
    codec = Codec(vae)
    assert (codec.space.factor, codec.space.scale) == (2, 0.5)
    assert codec.latent_shape(8, 12) == (4, 4, 6)
    assert codec.encode_source(PIXELS).shape == (2, 4, 4, 6)
    assert codec.decode(codec.encode_source(PIXELS)).shape == PIXELS.shape


def test_a_sample_is_scaled_and_the_mode_is_not(vae: AutoencoderKL):
    codec = Codec(vae)
    mean, std = codec.moments(PIXELS)
    noise = torch.randn_like(mean)
    assert torch.equal(codec.encode_source(PIXELS), mean)
    assert torch.equal(codec.encode(PIXELS, torch.zeros_like(mean)), mean * 0.5)
    assert torch.equal(codec.encode(PIXELS, noise), (mean + std * noise) * 0.5)


def test_what_is_decoded_is_unscaled_first(vae: AutoencoderKL):
    latents = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        assert torch.equal(Codec(vae).decode(latents), vae.decode(latents / 0.5).sample)


@torch.no_grad()
def test_a_vae_of_another_type(vae: AutoencoderKL):
    """What comes and goes is in the caller's type."""
    codec, half = Codec(vae), Codec(copy.deepcopy(vae).to(torch.bfloat16))
    latents = torch.randn(1, 4, 4, 4)
    for one, other in (
        *zip(codec.moments(PIXELS), half.moments(PIXELS), strict=True),
        (codec.decode(latents), half.decode(latents)),
    ):
        assert one.dtype == other.dtype == torch.float32
        assert 0 < (one - other).abs().max() < 0.1 * one.abs().max()


def test_encoding_gives_no_gradient(vae: AutoencoderKL):
    codec = Codec(vae)
    noise = torch.zeros(2, 4, 4, 6)
    assert not codec.encode(PIXELS, noise).requires_grad
    assert not codec.encode_source(PIXELS).requires_grad


def test_a_vae_may_have_statistics_of_each_channel(vae: AutoencoderKL):
    """As diffusers' SDXL pipelines read them."""
    vae.register_to_config(latents_mean=[0.5, -1.0, 0.0, 2.0], latents_std=[1.0, 2.0, 0.5, 3.0])
    codec = Codec(vae, source_scaled=True)
    mean, std = (torch.tensor(vae.config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    mode = codec.moments(PIXELS)[0]
    latents = codec.encode_source(PIXELS)
    assert torch.allclose(latents, (mode - mean) * 0.5 / std)
    assert torch.equal(codec.encode(PIXELS, torch.zeros_like(mode)), latents)
    with torch.no_grad():
        assert torch.allclose(codec.decode(latents), vae.decode(latents * std / 0.5 + mean).sample, atol=1e-6)
    vae.register_to_config(latents_std=[1.0, 2.0])
    with pytest.raises(WeightsError, match=r"\[4, 2\] channels\): expected"):
        Codec(vae)


@pytest.mark.parametrize(
    "vae",
    [
        AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)),
        AutoencoderDC(latent_channels=4, attention_head_dim=8, encoder_block_out_channels=(8, 16),
                      decoder_block_out_channels=(8, 16), encoder_block_types="ResBlock",
                      decoder_block_types="ResBlock", encoder_layers_per_block=(1, 1),
                      decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
                      decoder_qkv_multiscales=((), ()), scaling_factor=0.4),
    ],
    ids=["tiny", "dc"],
)  # fmt: skip
def test_an_autoencoder_without_a_posterior_has_its_mode_alone(vae):
    codec = Codec(vae.eval(), source_scaled=True)
    shape = (2, *codec.latent_shape(8, 12))
    assert codec.space.factor == 2 and codec.numbers > 0
    latents = codec.encode(PIXELS, torch.randn(shape))
    assert latents.shape == shape and torch.equal(latents, codec.encode_source(PIXELS))
    with torch.no_grad():
        # Another order in memory, other sums. Worst measured: 2e-7.
        assert torch.allclose(latents, vae.encode(PIXELS)[0] * vae.config.scaling_factor, atol=1e-6)
        assert torch.equal(codec.decode(latents), vae.decode(latents / vae.config.scaling_factor)[0])


def test_an_autoencoder_of_films_is_refused():
    with pytest.raises(WeightsError, match="AutoencoderKLWan does not tell of its latents"):
        Codec(AutoencoderKLWan(base_dim=3, z_dim=4, dim_mult=[1], num_res_blocks=1, temperal_downsample=[]))


@pytest.mark.parametrize(("y", "x"), [(7, 8), (8, 9), (0, 8)])
def test_a_picture_that_does_not_divide_is_refused(vae: AutoencoderKL, y: int, x: int):
    with pytest.raises(DataError, match=f"{x} x {y} pixels .* multiples of 2; crop or resize it"):
        Codec(vae).latent_shape(y, x)
