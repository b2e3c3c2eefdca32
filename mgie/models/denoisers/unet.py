"""Stable Diffusion's UNet, which sees the source picture beside the noisy one."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from mgie.errors import DataError
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.denoisers.hooked import hooked
from mgie.models.denoisers.walk import walk
from mgie.types import AttentionPlan, Condition, ControlPlan, Guess, Rows, Source


class UNetDenoiser(AbstractDenoiser):
    """A UNet whose input is twice as wide as its output: noisy latents first, source latents second.

    One of equal widths paints new pictures only.
    """

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        channels = unet.config.out_channels
        assert unet.config.in_channels in (channels, 2 * channels), "neither text alone nor a source beside"
        self.unet = hooked(unet)

    @property
    def heeds(self) -> frozenset[str]:
        """Hooks of its attention layers, and features blended between its blocks."""
        return frozenset({"attention", "features"})

    @property
    def sees_source(self) -> bool:
        """Whether it has a place for the picture before the edit."""
        return self.unet.config.in_channels > self.unet.config.out_channels

    @property
    def attentions(self) -> dict[str, tuple[int, int]]:
        """The second of each transformer block."""
        named = {name: module for name, module in self.unet.named_modules() if name.endswith("attn2")}
        return {name: (module.query_dim, module.cross_attention_dim) for name, module in named.items()}

    def beside(self, name: str) -> tuple[nn.Module, nn.Module]:
        """The second and the first of a transformer block."""
        block = self.unet.get_submodule(name.removesuffix(".attn2"))
        return block.attn2, block.attn1  # pyright: ignore - modules

    @property
    def latent_channels(self) -> int:
        """Channels of the picture that is painted."""
        return self.unet.config.out_channels

    @property
    def condition_width(self) -> int:
        """Width of the condition."""
        return self.unet.config.cross_attention_dim

    @property
    def multiple(self) -> int:
        """It halves latents once less than it has levels."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def adaptable(self) -> nn.Module:
        """All of it."""
        return self.unet

    def checkpoint_activations(self, *, whole: bool) -> None:
        """Of all blocks, or of the first and the last one, which are at the latents' full size."""
        unet: Any = self.unet
        unet.enable_gradient_checkpointing()
        inner = [*unet.down_blocks[1:], *([unet.mid_block] if unet.mid_block else []), *unet.up_blocks[:-1]]
        for block in () if whole else inner:
            for module in block.modules():
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = False

    @property
    def numbers(self) -> int:
        """Those of its first level."""
        return self.unet.config.block_out_channels[0]

    def forward(
        self,
        noisy: Float[Tensor, "r c h w"],
        t: Int[Tensor, " r"] | Float[Tensor, " r"],
        source: Source,
        condition: Condition,
        plan: ControlPlan | None = None,
        rows: Rows | None = None,
    ) -> Guess:
        """Prediction at the diffusion times `t`, for latents of any size; without a source beside zeros."""
        plan = plan or ControlPlan()
        if unheeded := [name for name in plan.given if name not in self.heeds]:
            raise DataError(f"a UNet heeds no {' nor '.join(unheeded)} of a plan: leave them out.")
        if isinstance(source, tuple):
            raise DataError(
                f"there are {len(source)} pictures before the edit: a UNet sees one; leave others out."
            )
        wide = self.unet.config.addition_embed_type == "text_time"
        if not (condition.pooled is None) == (condition.sizes is None) == (not wide):
            there = [name for name in ("pooled", "sizes") if getattr(condition, name) is not None]
            raise DataError(
                f"beside its tokens, the condition has {' and '.join(there) or 'nothing'}: this UNet expects "
                f"{'pooled and sizes' if wide else 'nothing'}; use an encoder that was made for it."
            )
        if source is not None and not self.sees_source:
            raise DataError(
                "there is a picture before the edit, and this UNet cannot see one: it paints new pictures; "
                "leave the picture out, or take an editor."
            )
        beside = torch.zeros_like(noisy) if source is None else source
        seen = torch.cat([noisy, beside], dim=1) if self.sees_source else noisy
        more: dict[str, Any] = {} if condition.mask is None else {"encoder_attention_mask": condition.mask}
        if condition.pooled is not None:
            more["added_cond_kwargs"] = {"text_embeds": condition.pooled, "time_ids": condition.sizes}
        rows, grid = rows or Rows(names=("T",), batch=len(noisy)), (noisy.shape[-2], noisy.shape[-1])
        if plan.attention:
            if not torch.compiler.is_compiling():
                hooked(self.unet)  # the library's own calls may have taken the wrapping off
            more["cross_attention_kwargs"] = {
                "plan": AttentionPlan(hooks=plan.attention, grid=grid, rows=rows)
            }
        if plan.features is not None:
            changed = plan.features
            return Guess(
                mean=walk(
                    self.unet, seen, t, condition.tokens,
                    at=lambda point, states: changed(point, states, rows, grid), **more,
                )
            )  # fmt: skip
        return Guess(
            mean=self.unet(seen, t, encoder_hidden_states=condition.tokens, return_dict=False, **more)[0]
        )


def widen(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give a text-to-image UNet a second half of input channels, in place; one that has it is left alone.

    Old weights and the bias stay, the new half is zero: the widened UNet paints what the old one did.
    """
    old, channels = unet.conv_in, unet.config.out_channels
    if old.in_channels == 2 * channels:
        return unet
    assert old.in_channels == channels, "neither a text-to-image nor an InstructPix2Pix UNet"
    unet.conv_in = widened(old)
    unet.register_to_config(in_channels=2 * channels)
    return unet


def widened(old: Any) -> nn.Conv2d:
    """A convolution with twice as many input channels, of which the second half counts nothing."""
    channels = old.in_channels
    new = nn.Conv2d(2 * channels, old.out_channels, old.kernel_size, old.stride, old.padding).to(old.weight)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :channels] = old.weight
        new.load_state_dict({"weight": new.weight, "bias": old.bias})
    return new
