"""Pixels <-> latents.

The target becomes a sample of the posterior, scaled: what the denoiser paints. The source becomes the
posterior's mean, NOT scaled: what the denoiser sees beside it. Only scaled latents are decoded.
"""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from mgie.errors import DataError


class Codec(nn.Module):
    """A variational autoencoder of the Stable Diffusion family, frozen while an editor is trained."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    @property
    def factor(self) -> int:
        """How many pixels one latent stands for, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def scale(self) -> float:
        """What latents are multiplied by so that they have about unit variance."""
        return self.vae.config.scaling_factor

    def latent_shape(self, y: int, x: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of a picture of y by x pixels. Raises DataError if it does not divide."""
        if y % self.factor or x % self.factor or not y or not x:
            raise DataError(
                f"a picture of {x} x {y} pixels cannot be encoded: both sides must be multiples of "
                f"{self.factor}; crop or resize it."
            )
        return self.vae.config.latent_channels, y // self.factor, x // self.factor

    def moments(
        self, pixels: Float[Tensor, "b 3 y x"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Mean and standard deviation of the posterior, not scaled."""
        self.latent_shape(*pixels.shape[-2:])
        posterior = self.vae.encode(pixels).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "b 3 y x"], posterior_noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """A scaled sample of the posterior; `posterior_noise` is standard normal."""
        mean, std = self.moments(pixels)
        return (mean + std * posterior_noise) * self.scale

    @torch.no_grad()
    def encode_mode(self, pixels: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b c h w"]:
        """The most likely latents, not scaled."""
        return self.moments(pixels)[0]

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """Pixels of scaled latents; they may leave [-1, 1] a little."""
        return self.vae.decode(latents / self.scale, return_dict=False)[0]
