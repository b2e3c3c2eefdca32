"""Sampling from noise whose mean already shows the subjects (MuDI, Jang et al. 2024)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def mean_shifted(
    noise: Float[Tensor, "b c h w"],
    latents: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 y x"],
    *,
    gamma: float,
) -> Float[Tensor, "b c h w"]:
    """Noise of unit variance with `gamma` times the latents of a canvas as its mean, where the canvas' mask
    (0 to 1, of its pixels) is; elsewhere its mean stays 0, and nothing is said of the background.

    `latents` are scaled as the denoiser sees them. The result is what a scheduler multiplies by its
    `init_noise_sigma`. With Stable Diffusion's schedule, noise added to a picture up to the last step is this
    at a gamma of 0.068.
    """
    small = F.interpolate(mask.to(noise), size=noise.shape[-2:], mode="bilinear", align_corners=False)
    return torch.addcmul(noise, latents.to(noise), small, value=gamma)
