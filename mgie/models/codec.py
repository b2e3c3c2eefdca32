"""Pixels <-> latents.

The target becomes a sample of the posterior, scaled: what the denoiser paints. The source becomes the
posterior's mean, as `LatentSpace.source_scaled` says: what the denoiser sees beside it. Only scaled latents
are decoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mgie.errors import DataError, WeightsError


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
    mean: tuple[float, ...] | None = None
    """What is taken from each channel besides. None: nothing."""
    std: tuple[float, ...] | None = None
    """What each channel is divided by besides. None: nothing."""
    source_scaled: bool = False
    """Whether the source's latents are scaled, too. InstructPix2Pix's are not (Brooks et al. 2023)."""


class Codec(nn.Module):
    """An autoencoder of diffusers, frozen while an editor is trained. One without a posterior has its mode
    alone."""

    def __init__(self, vae: Any, *, source_scaled: bool = False):
        """Raises WeightsError for one whose latents are no flat pictures, or told of in part."""
        super().__init__()
        self.vae = vae
        config = vae.config
        channels, widths = config.get("latent_channels"), _widths(config)
        statistics = [config.get(f"latents_{name}") for name in ("mean", "std")]
        if not channels or not widths or any(each and len(each) != channels for each in statistics):
            raise WeightsError(
                f"the {type(vae).__name__} does not tell of its latents (latent_channels={channels}, blocks "
                f"of {widths} channels, mean and deviation of {[len(each or ()) for each in statistics]} "
                "channels): expected one for single pictures with statistics of all channels or none; take "
                "another autoencoder."
            )
        mean, std = (tuple(each) if each else None for each in statistics)
        self.space = LatentSpace(
            factor=2 ** (len(widths) - 1), channels=channels, scale=config.get("scaling_factor") or 1.0,
            shift=config.get("shift_factor") or 0.0, mean=mean, std=std, source_scaled=source_scaled,
        )  # fmt: skip

    @property
    def numbers(self) -> int:
        """Numbers that its widest layer has for each pixel: what memory is reckoned with."""
        # The decoder's last block gets what the one before it has made wide: at the picture's full size.
        channels = _widths(self.vae.config)
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
        """Mean and standard deviation of the posterior, not scaled; zeros where there is none."""
        self.latent_shape(*pixels.shape[-2:])
        # Convolutions have kernels of their own for this order in memory; in double precision they have none.
        if pixels.dtype != torch.float64:
            pixels = pixels.to(memory_format=torch.channels_last)
        encoded = self.vae.encode(pixels.to(self.vae.dtype))
        if not hasattr(encoded, "latent_dist"):
            latents = encoded[0].to(pixels.dtype)
            return latents, torch.zeros_like(latents)
        posterior = encoded.latent_dist
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
        space = self.space
        unscaled = latents / space.scale
        unscaled = unscaled * _each(space.std, latents) if space.std else unscaled
        unscaled = unscaled + _each(space.mean, latents) if space.mean else unscaled
        unscaled = unscaled + space.shift if space.shift else unscaled
        return self.vae.decode(unscaled.to(self.vae.dtype), return_dict=False)[0].to(latents.dtype)

    def _scaled(self, latents: Tensor) -> Tensor:
        space = self.space
        latents = latents - space.shift if space.shift else latents
        latents = latents - _each(space.mean, latents) if space.mean else latents
        latents = latents * space.scale
        return latents / _each(space.std, latents) if space.std else latents


def _each(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "c 1 1"]:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]


def _widths(config: Mapping[str, Any]) -> Sequence[int]:
    """Channels of an autoencoder's blocks; some have others to decode."""
    return config.get("block_out_channels") or config.get("decoder_block_out_channels") or ()
