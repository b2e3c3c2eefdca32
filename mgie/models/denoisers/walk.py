"""A UNet walked block by block: what flows between its blocks can be seen and changed.

The forward pass of diffusers' `UNet2DConditionModel` over its own modules, bit for bit; for sampling alone,
and only where features are blended.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from mgie.errors import DataError
from mgie.types import Point

At = Callable[[Point, Tensor], Tensor]
"""(point, states before that block) -> states."""
BLOCKS = {
    "DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2D", "UNetMidBlock2DCrossAttn",
    "CrossAttnUpBlock2D", "UpBlock2D",
}  # fmt: skip
"""diffusers' blocks of Stable Diffusion's UNets."""


def walk(
    unet: UNet2DConditionModel,
    sample: Float[Tensor, "r c h w"],
    t: Tensor,
    tokens: Float[Tensor, "r q e"],
    *,
    at: At,
    cross_attention_kwargs: dict[str, Any] | None = None,
    encoder_attention_mask: Tensor | None = None,
    added_cond_kwargs: dict[str, Tensor] | None = None,
) -> Float[Tensor, "r _ h w"]:
    """What `unet` answers. `at` is asked before every input block but the first, downsamplers among them;
    before the middle; and before every output block, about its main path alone: the skip joins after it.

    An output block ends with its upsampler. Of Stable Diffusion's these are inputs 1 to 11 and outputs 0 to
    11 (12 to 23, as the original counts them). Raises DataError for a UNet of other blocks.
    """
    _check(unet)
    mask = encoder_attention_mask
    if mask is not None:
        mask = ((1 - mask.to(sample.dtype)) * -10000.0).unsqueeze(1)  # as the library does
    if unet.config.center_input_sample:
        sample = 2 * sample - 1.0

    # Time, and what else is added to it.
    emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=t), None)
    added = added_cond_kwargs or {}
    more = unet.get_aug_embed(emb=emb, encoder_hidden_states=tokens, added_cond_kwargs=added)
    emb = emb if more is None else emb + more
    emb = emb if unet.time_embed_act is None else unet.time_embed_act(emb)
    tokens = unet.process_encoder_hidden_states(encoder_hidden_states=tokens, added_cond_kwargs=added)

    def attended(attention: nn.Module, states: Tensor) -> Tensor:
        return attention(
            states, encoder_hidden_states=tokens, cross_attention_kwargs=cross_attention_kwargs,
            attention_mask=None, encoder_attention_mask=mask, return_dict=False,
        )[0]  # fmt: skip

    # Down.
    odd = any(side % 2**unet.num_upsamplers for side in sample.shape[-2:])
    states = unet.conv_in(sample)
    skips, count = [states], 1
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions):
            states = resnet(at(Point(part="input", index=count), states), emb)
            states = states if attention is None else attended(attention, states)
            skips.append(states)
            count += 1
        for downsampler in block.downsamplers or []:
            states = downsampler(at(Point(part="input", index=count), states))
            skips.append(states)
            count += 1

    # The middle.
    if unet.mid_block is not None:
        states = at(Point(part="middle"), states)
        if getattr(unet.mid_block, "has_cross_attention", False):
            states = unet.mid_block(
                states, emb, encoder_hidden_states=tokens, attention_mask=None,
                cross_attention_kwargs=cross_attention_kwargs, encoder_attention_mask=mask,
            )  # fmt: skip
        else:
            states = unet.mid_block(states, emb)

    # Up. A level that was rounded up on the way down is told its size.
    count = 0
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions):
            states = at(Point(part="output", index=count), states)
            states = resnet(torch.cat([states, skips.pop()], dim=1), emb)
            states = states if attention is None else attended(attention, states)
            count += 1
        for upsampler in block.upsamplers or []:
            states = upsampler(states, skips[-1].shape[2:] if odd else None)

    if unet.conv_norm_out is not None:
        states = unet.conv_act(unet.conv_norm_out(states))
    return unet.conv_out(states)


def _check(unet: UNet2DConditionModel) -> None:
    blocks = [*unet.down_blocks, *unet.up_blocks, *([unet.mid_block] if unet.mid_block else [])]
    if strange := sorted({type(block).__name__ for block in blocks} - BLOCKS):
        raise DataError(
            f"features cannot be blended in a UNet with {', '.join(strange)}: expected the blocks of Stable "
            "Diffusion's; edit without blending of features."
        )
    if any(getattr(block, "s1", None) for block in unet.up_blocks):
        raise DataError("features cannot be blended while FreeU is on: call disable_freeu() first.")
    if unet.class_embedding is not None:
        raise DataError("features cannot be blended in a UNet that is told classes: edit without blending.")
