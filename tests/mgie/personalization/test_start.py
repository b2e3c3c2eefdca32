"""Noise whose mean shows the subjects, and whose spread is that of any noise."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from mgie.personalization.start import mean_shifted


def test_its_mean_is_the_masked_latent_and_its_variance_one():
    latents, mask = torch.randn(1, 4, 8, 8), torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    noise = torch.randn(4000, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = mean_shifted(noise, latents.expand(4000, -1, -1, -1), mask.expand(4000, -1, -1, -1), gamma=0.5)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True
    mean = found.mean(dim=0)
    assert (mean[:, inside] - 0.5 * latents[0][:, inside]).abs().max() < 0.08  # 5 deviations
    assert torch.equal(found[..., ~inside], noise[..., ~inside])
    assert (found.var(dim=0) - 1).abs().max() < 0.12


def test_none_of_it_is_the_noise_itself():
    noise, latents, mask = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.ones(2, 1, 64, 64)
    assert torch.equal(mean_shifted(noise, latents, mask, gamma=0.0), noise)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Euler
def test_it_is_what_schedulers_scale():
    """Noise added to a picture up to the last step is this start at the paper's scale."""
    latents, noise, mask = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.ones(1, 1, 64, 64)
    kwargs = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for scheduler in (DDIMScheduler(**kwargs), EulerDiscreteScheduler(**kwargs, timestep_spacing="linspace")):
        scheduler.set_timesteps(50)
        signal = DDIMScheduler(**kwargs).alphas_cumprod[-1]
        gamma = float((signal / (1 - signal)).sqrt())
        assert abs(gamma - 0.068) < 5e-4
        start = mean_shifted(noise, latents, mask, gamma=gamma) * scheduler.init_noise_sigma
        if isinstance(scheduler, EulerDiscreteScheduler):
            noised = latents + noise * scheduler.sigmas[0]
            assert abs(scheduler.init_noise_sigma / scheduler.sigmas[0] - 1) < 0.01
        else:
            noised = (latents * signal.sqrt() + noise * (1 - signal).sqrt()) / (1 - signal).sqrt()
        assert (start - noised).abs().max() < 0.02 * noised.abs().max()
