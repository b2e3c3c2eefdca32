import copy

import pytest
import torch
from diffusers import AutoencoderKL

from mgie.errors import DataError
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


@pytest.mark.parametrize(("y", "x"), [(7, 8), (8, 9), (0, 8)])
def test_a_picture_that_does_not_divide_is_refused(vae: AutoencoderKL, y: int, x: int):
    with pytest.raises(DataError, match=f"{x} x {y} pixels .* multiples of 2; crop or resize it"):
        Codec(vae).latent_shape(y, x)
