"""Edits inside a mask: what is outside stays, in latents, features, words and pixels.

Progressive feature blending and masked cross-attention are PFB-Diff's (Huang et al. 2025, arXiv 2306.16894),
with what the released program does beside its paper left out: see docs/why.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mgie.controllers.base import AbstractController, Setting
from mgie.controllers.masking import EditMasking, FeatureBlending, at_levels, mixed, sized
from mgie.controllers.region_options import Preserve, RegionOptions
from mgie.controllers.softening import gaussian_seam
from mgie.diffusion.guidance import same_shape
from mgie.errors import ConfigError
from mgie.types import ControlBatch, ControlPlan


class RegionController(AbstractController):
    """A mask as a plan. It has no parameters: one is made for each call."""

    def __init__(self, options: RegionOptions, *, preserve: Preserve = "exact", depth: int = 2):
        """`depth`: how often the denoiser halves its latents."""
        super().__init__()
        self.options, self.preserve, self.depth = options, preserve, depth

    def plan(self, controls: ControlBatch, setting: Setting) -> ControlPlan:
        """Latents are blended at the level of noise that each step has reached; features at a quarter of the
        latents' side or less, or else where they are smallest; words are masked at half of it or less. A
        mask of everything is none.

        Raises ConfigError without a mask, or without a picture before the edit.
        """
        if controls.mask is None or setting.reference is None:
            raise ConfigError(
                "a region needs a mask and a photo to preserve: expected both; give them, or edit without."
            )
        options, mask = self.options, controls.mask
        if bool((mask == 1).all()):
            return ControlPlan()
        latent = sized(mask, setting.grid)
        # A mask smaller than a latent takes all of it: what is outside is put back in pixels.
        most = latent.amax(dim=(1, 2, 3), keepdim=True)
        latent = torch.where((most > 0) & (most < 1), latent / most.clamp(min=1e-12), latent).clamp(0, 1)
        held = {"exact": setting.steps, "soft": (setting.steps + 1) // 2, "none": 0}[self.preserve]
        blend = LatentBlending(mask=latent, reference=setting.reference, steps=held) if held else None
        features = attention = None
        if options.features and options.strength:
            features = FeatureBlending(
                masks=at_levels(latent, setting.grid, first=min(2, self.depth), last=self.depth),
                strength=options.strength, during=(0.0, options.until),
            )  # fmt: skip
        if options.attention:
            _, null = same_shape(setting.context)
            attention = EditMasking(
                masks=at_levels(latent, setting.grid, first=min(1, self.depth), last=self.depth),
                null=null.tokens, null_mask=null.mask, during=(0.0, options.until),
            )  # fmt: skip
        seam = None
        if self.preserve == "exact" and options.seam and options.seam_width:
            pixels = (mask.shape[-2], mask.shape[-1])
            seam = Seam(
                mask=(mask[:, 0] >= 0.5).cpu().numpy(),
                sigma_max=options.scaled(options.seam, pixels),
                sigma_s=options.scaled(options.seam_width, pixels),
            )  # fmt: skip
        return ControlPlan(
            attention=() if attention is None else (attention,), features=features, blend=blend,
            finish=() if seam is None else (seam,),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LatentBlending:
    """After each of the first `steps`, what is outside is put back to the reference."""

    mask: Float[Tensor, "b 1 h w"]
    reference: Callable[[int], Tensor]
    steps: int
    late: bool = False
    """With the reference of the level before, as the original's release has it."""

    def __call__(self, latents: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h w"]:
        """The latents after this step, counted from 0."""
        if step >= self.steps:
            return latents
        reference = self.reference(step if self.late else step + 1)
        return mixed(self.mask.to(latents), latents, reference.to(latents))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Seam:
    """Decoded pictures, blurred towards the edge of their masks."""

    mask: Bool[np.ndarray, "b y x"]
    sigma_max: float
    sigma_s: float

    def __call__(self, pixels: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b 3 y x"]:
        """Outside the masks they stay as they are: the source is put back by who knows how far the edit may
        fade into it."""
        return torch.stack(
            [
                gaussian_seam(edit, edit, mask, sigma_max=self.sigma_max, sigma_s=self.sigma_s)
                for edit, mask in zip(pixels, self.mask)
            ]
        )
