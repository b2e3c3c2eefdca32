"""Reference pictures for a language model and a UNet, fused as MIGE fuses them.

Tian et al. 2025, section 3.2; of MGIE's parts (Fu et al. 2024).
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mgie.controllers.beside import BesideBlocks
from mgie.models.encoders.fusion import FeatureFusion, patch_tokens

PATCH = 2
"""Latents along the side of a visual token."""
BLANK = 4
"""Side of the latents that stand for no picture."""


class References(nn.Module):
    """The vision tower's tokens of pictures look at the patches of their latents; what comes out is read by
    the language model, and by the denoiser beside its condition. Both ends start at zero."""

    def __init__(self, *, vision: int, channels: int, width: int, sites: Mapping[str, int]):
        """Widths of the tower's tokens, of the latents and of visual tokens; the denoiser's attentions."""
        super().__init__()
        self.patches = nn.Conv2d(channels, width, PATCH, stride=PATCH)
        self.fusion = FeatureFusion(vision, width, heads=math.gcd(vision, 8), out_norm=False)
        self.beside = BesideBlocks(sites, width=vision)

    @property
    def sizes(self) -> dict[str, object]:
        """What it is made with, plain data for JSON."""
        return {
            "vision": self.fusion.width, "channels": self.patches.in_channels, "width": self.fusion.visual,
            "sites": self.beside.sites,
        }  # fmt: skip

    def forward(
        self, features: Float[Tensor, "j p dv"], latents: Float[Tensor, "j c h w"]
    ) -> Float[Tensor, "j p dv"]:
        """The tower's tokens, with what the latents add."""
        weight = self.patches.weight
        visual = patch_tokens(self.patches, latents.to(weight))
        return self.fusion(features.to(weight), visual)

    def of_nothing(self, patches: int) -> Float[Tensor, "1 p dv"]:
        """Of a blank picture: so that every parameter takes part in every step."""
        weight = self.patches.weight
        blank = weight.new_zeros(1, self.patches.in_channels, BLANK, BLANK)
        return self(weight.new_zeros(1, patches, self.fusion.width), blank)


def looks_at(
    ids: Int[Tensor, "b t"], at: Int[Tensor, "j 2"], *, patch: int, patches: int
) -> Int[Tensor, " j"]:
    """Which of all pictures, in the order of their placeholders, begin at these rows and positions."""
    before = (ids == patch).flatten().long().cumsum(0)
    return (before[at[:, 0] * ids.shape[1] + at[:, 1]] - 1) // patches


def side_by_side(
    tokens: Float[Tensor, "j p f"], at: Int[Tensor, "j 2"], *, rows: int
) -> tuple[Float[Tensor, "b k f"], Bool[Tensor, "b k"]]:
    """The tokens of each row's pictures, one picture after the other, padded to the most of a row."""
    own = at[:, 0][:, None] == at[:, 0]
    places = torch.tril(own, diagonal=-1).sum(1)  # how many of the same row stand before
    most, (_, patches, width) = int(places.max()) + 1, tokens.shape
    held = tokens.new_zeros(rows, most, patches, width).index_put((at[:, 0], places), tokens)
    there = torch.zeros(rows, most, dtype=torch.bool, device=at.device)
    there = there.index_put((at[:, 0], places), torch.ones_like(places, dtype=torch.bool))
    return held.flatten(1, 2), there.repeat_interleave(patches, dim=1)
