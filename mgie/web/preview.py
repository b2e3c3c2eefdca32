"""What latents look like without their decoder: an affine map to colours, one a codec."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mgie.data.images import fitted_size, to_image, to_pixels
from mgie.models.codec import Codec

PATCHES = 12
"""Colours along a side of the picture that the map is fitted to."""
SHOWN = 320
"""Pixels along the longer side of a preview."""


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Latents to colours: the least squares of one picture of many colours, as the codec encodes it."""

    weight: Float[Tensor, "c 3"]
    bias: Float[Tensor, " 3"]
    spread: float
    """Standard deviation of the latents that it was fitted to; noisier ones are brought to it."""

    @classmethod
    @torch.no_grad()
    def of(cls, codec: Codec, *, side: int, multiple: int) -> "Colours":
        """The map of this codec, for pictures of about this side."""
        values = np.random.default_rng(0).integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
        size = fitted_size((side, side), side=side, multiple=multiple)
        pixels = to_pixels(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))[None]
        mean = codec.moments(pixels.to(codec.device, codec.dtype))[0]
        none = torch.zeros_like(mean)
        latents = codec.target_latents(mean, none, none).float().cpu()
        small = torch.nn.functional.interpolate(pixels, latents.shape[-2:], mode="area")
        seen, wanted = (each[0].flatten(1).T.double() for each in (latents, small))
        seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=seen.dtype)], dim=1)
        square = seen.T @ seen + 1e-3 * torch.eye(seen.shape[1], dtype=seen.dtype)
        found = torch.linalg.solve(square, seen.T @ wanted).float()
        return cls(weight=found[:-1], bias=found[-1], spread=float(latents.std()))

    def picture(self, latents: Float[Tensor, "c h w"], size: tuple[int, int]) -> Image.Image:
        """What they look like, in the shape of a picture of this width and height."""
        latents = latents.detach().float().cpu()
        latents = latents / max(1.0, float(latents.std()) / max(self.spread, 1e-6))
        pixels = torch.einsum("chw,cd->dhw", latents, self.weight) + self.bias[:, None, None]
        scale = SHOWN / max(size)
        shown = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
        return to_image(pixels.nan_to_num()).resize(shown, Image.Resampling.BILINEAR)


def as_file(picture: Image.Image) -> bytes:
    """A small file of a picture that is looked at for a moment."""
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=70)
    return buffer.getvalue()
