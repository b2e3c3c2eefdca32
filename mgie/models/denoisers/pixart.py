"""PixArt's transformer, which sees the source picture beside the noisy one.

Chen et al. 2024 (PixArt-alpha); with a source beside, Tian et al. 2025 (MIGE).
"""

from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.embeddings import PatchEmbed
from jaxtyping import Float, Int
from torch import Tensor

from mgie.errors import DataError, WeightsError
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.denoisers.hooked import hooked
from mgie.models.denoisers.unet import widened
from mgie.types import AttentionPlan, Condition, ControlPlan, Guess, Rows, Source


class PixArtDenoiser(AbstractDenoiser):
    """A transformer over patches: noisy latents first, source latents second; it answers with noise and, of
    twice as many channels, with how its variance lies between the schedule's bounds."""

    def __init__(self, transformer: PixArtTransformer2DModel):
        """Raises WeightsError for one that sees no source, or wants to know sizes."""
        super().__init__()
        config = transformer.config
        channels = config.in_channels // 2
        fits = config.out_channels in (channels, 2 * channels) and config.in_channels == 2 * channels
        if not fits or transformer.use_additional_conditions or config.caption_channels is None:
            raise WeightsError(
                f"the transformer takes {config.in_channels} channels, gives {config.out_channels}, reads "
                f"captions of width {config.caption_channels} and wants "
                f"{'sizes' if transformer.use_additional_conditions else 'no sizes'}: expected twice the "
                "channels of the latents, as many or half of it out, a width, and no sizes; take PixArt's of "
                "512 pixels, widened."
            )
        self.transformer = hooked(transformer)

    @property
    def heeds(self) -> frozenset[str]:
        """Hooks of its attention layers."""
        return frozenset({"attention"})

    @property
    def attentions(self) -> dict[str, tuple[int, int]]:
        """The second of each transformer block."""
        named = {name: module for name, module in self.transformer.named_modules() if name.endswith("attn2")}
        return {name: (module.query_dim, module.cross_attention_dim) for name, module in named.items()}

    @property
    def latent_channels(self) -> int:
        """Channels of the picture that is painted."""
        return self.transformer.config.in_channels // 2

    @property
    def condition_width(self) -> int:
        """Width of the condition."""
        return self.transformer.config.caption_channels

    @property
    def learns_variance(self) -> bool:
        """Where it has twice the channels of its latents out."""
        return self.transformer.config.out_channels > self.latent_channels

    @property
    def multiple(self) -> int:
        """The side of a patch."""
        return self.transformer.config.patch_size

    @property
    def patch_width(self) -> int:
        """Width of `patches`."""
        return self.transformer.inner_dim

    def checkpoint_activations(self, *, whole: bool) -> None:
        """Of all blocks, which are alike: there are no largest ones."""
        del whole
        self.transformer.enable_gradient_checkpointing()

    @property
    def numbers(self) -> int:
        """Of a patch, spread over its latents."""
        return max(self.patch_width // self.multiple**2, self.latent_channels)

    def patches(self, latents: Float[Tensor, "j c h w"]) -> Float[Tensor, "j p fv"]:
        """What it makes of a picture's latents before it knows their places, without a source beside."""
        alone = torch.cat([latents, torch.zeros_like(latents)], dim=1).to(self.dtype)
        return torch.flatten(self.transformer.pos_embed.proj(alone), 2).transpose(1, 2)

    def forward(
        self,
        noisy: Float[Tensor, "r c h w"],
        t: Int[Tensor, " r"] | Float[Tensor, " r"],
        source: Source,
        condition: Condition,
        plan: ControlPlan | None = None,
        rows: Rows | None = None,
    ) -> Guess:
        """Noise at the times `t`, which may be fractional; without a source beside zeros."""
        plan = plan or ControlPlan()
        if unheeded := [name for name in plan.given if name not in self.heeds]:
            raise DataError(f"PixArt heeds no {' nor '.join(unheeded)} of a plan: leave them out.")
        if isinstance(source, tuple):
            raise DataError(
                f"there are {len(source)} pictures before the edit: PixArt sees one; leave others out."
            )
        if condition.pooled is not None or condition.sizes is not None:
            raise DataError(
                "the condition has pooled or sizes, which PixArt does not take: use an encoder that was made "
                "for it."
            )
        more: dict[str, Any] = {}
        if plan.attention:
            if not torch.compiler.is_compiling():
                hooked(self.transformer)  # the library's own calls may have taken the wrapping off
            rows, grid = rows or Rows(names=("T",), batch=len(noisy)), (noisy.shape[-2], noisy.shape[-1])
            # Conditions of a plan have the width that they come with, its layers' own is another.
            read = self.transformer.caption_projection
            told = AttentionPlan(hooks=plan.attention, grid=grid, rows=rows, read=read)
            more["cross_attention_kwargs"] = {"plan": told}
        beside = torch.zeros_like(noisy) if source is None else source
        answer = self.transformer(
            torch.cat([noisy, beside], dim=1), encoder_hidden_states=condition.tokens, timestep=t,
            encoder_attention_mask=condition.mask, return_dict=False, **more,
        )[0]  # fmt: skip
        channels = self.latent_channels
        spread = answer[:, channels:] if answer.shape[1] > channels else None
        return Guess(mean=answer[:, :channels], spread=spread)


def widen_pixart(transformer: PixArtTransformer2DModel) -> PixArtTransformer2DModel:
    """Give a text-to-image transformer a second half of input channels, in place, as `widen` does."""
    if transformer.config.in_channels * 2 == transformer.config.out_channels:
        transformer.pos_embed.proj = widened(transformer.pos_embed.proj)
        transformer.register_to_config(in_channels=2 * transformer.config.in_channels)
    return transformer


def position_table(transformer: PixArtTransformer2DModel) -> Float[Tensor, "1 p fv"]:
    """Where patches are, computed from the sizes alone."""
    own, config = transformer.pos_embed, transformer.config
    with torch.device("cpu"):
        fresh = PatchEmbed(
            height=config.sample_size, width=config.sample_size, patch_size=config.patch_size, in_channels=1,
            embed_dim=transformer.inner_dim, interpolation_scale=own.interpolation_scale,
        )  # fmt: skip
    table = fresh.pos_embed
    assert isinstance(table, Tensor)
    return table


def settle(transformer: PixArtTransformer2DModel) -> PixArtTransformer2DModel:
    """Give a transformer without values its table of places, which no file holds; in place."""
    transformer.pos_embed.register_buffer("pos_embed", position_table(transformer), persistent=False)
    return transformer
