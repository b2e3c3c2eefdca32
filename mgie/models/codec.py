"""Pixels <-> latents.

The target becomes a sample of the posterior, scaled: what the denoiser paints. The source becomes the
posterior's mean, as `LatentSpace.source_scaled` says: what the denoiser sees beside it. Only scaled latents
are decoded.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from mgie.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """What differs between autoencoders, as data."""

    factor: int
    """How many pixels one latent stands for, along each side."""
    channels: int
    scale: float
    """What latents are multiplied by so that they have about unit variance."""
    shift: float = 0.0
    """What is taken from them before."""
    source_scaled: bool = False
    """Whether the source's latents are scaled, too. InstructPix2Pix's are not (Brooks et al. 2023)."""


class Codec(nn.Module):
    """A variational autoencoder, frozen while an editor is trained."""

    def __init__(self, vae: AutoencoderKL, *, source_scaled: bool = False):
        super().__init__()
        self.vae = vae
        config = vae.config
        self.space = LatentSpace(
            factor=2 ** (len(config.block_out_channels) - 1),
            channels=config.latent_channels,
            scale=config.scaling_factor,
            shift=config.get("shift_factor") or 0.0,
            source_scaled=source_scaled,
        )

    @property
    def numbers(self) -> int:
        """Numbers that its widest layer has for each pixel: what memory is reckoned with."""
        # The decoder's last block gets what the one before it has made wide: at the picture's full size.
        channels = self.vae.config.block_out_channels
        return channels[min(1, len(channels) - 1)]

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its parameters."""
        return next(self.parameters()).dtype

    def latent_shape(self, y: int, x: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of a picture of y by x pixels. Raises DataError if it does not divide."""
        factor = self.space.factor
        if y % factor or x % factor or not y or not x:
            raise DataError(
                f"a picture of {x} x {y} pixels cannot be encoded: both sides must be multiples of "
                f"{factor}; crop or resize it."
            )
        return self.space.channels, y // factor, x // factor

    def moments(
        self, pixels: Float[Tensor, "b 3 y x"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Mean and standard deviation of the posterior, not scaled."""
        self.latent_shape(*pixels.shape[-2:])
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        return posterior.mean.to(pixels.dtype), posterior.std.to(pixels.dtype)

    def target_latents(
        self,
        mean: Float[Tensor, "b c h w"],
        std: Float[Tensor, "b c h w"],
        posterior_noise: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """A scaled sample of the posterior; `posterior_noise` is standard normal."""
        return self._scaled(mean + std * posterior_noise)

    def source_latents(self, mean: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The most likely latents, as the denoiser sees them of the source."""
        return self._scaled(mean) if self.space.source_scaled else mean

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "b 3 y x"], posterior_noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The latents of targets."""
        return self.target_latents(*self.moments(pixels), posterior_noise)

    @torch.no_grad()
    def encode_source(self, pixels: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b c h w"]:
        """The latents of sources."""
        return self.source_latents(self.moments(pixels)[0])

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 y x"]:
        """Pixels of scaled latents; they may leave [-1, 1] a little."""
        unscaled = latents / self.space.scale
        unscaled = unscaled + self.space.shift if self.space.shift else unscaled
        return self.vae.decode(unscaled.to(self.vae.dtype), return_dict=False)[0].to(latents.dtype)

    def _scaled(self, latents: Tensor) -> Tensor:
        return (latents - self.space.shift if self.space.shift else latents) * self.space.scale
