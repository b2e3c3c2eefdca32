"""A UNet that begins as one that paints its source: what stays need not be learnt.

Each latent of the source goes, once as it is and once negative, through the last skip connection alone;
behind the last activation the two are one again, as x = silu(x) - silu(-x).
"""

import math

import torch
from diffusers import UNet2DConditionModel

from mgie.errors import ConfigError


@torch.no_grad()
def begin_with_copying(unet: UNet2DConditionModel) -> None:
    """Set the weights of a new UNet so that its guess at the sample is the source beside it, up to the norm
    before the end, which gives latents of any deviation one of 1. Raises ConfigError for one too narrow."""
    config, norm = unet.config, unet.conv_norm_out
    latents, groups, width = config.out_channels, norm.num_groups, unet.conv_in.out_channels
    each, room = latents // groups, width // groups
    if config.in_channels != 2 * latents or latents % groups or room < 2 * each:
        raise ConfigError(
            f"a UNet of {config.in_channels} channels in, {latents} out, {width} at first, {groups} groups "
            f"cannot begin with copying: expected {2 * latents} in, a multiple of the groups out, and at "
            f"least {2 * latents} at first; change block_out_channels."
        )
    copied = [room * (at // each) + 2 * (at % each) for at in range(latents)]
    for at, first in enumerate(copied):
        unet.conv_in.weight[first : first + 2] = 0.0
        unet.conv_in.bias[first : first + 2] = 0.0
        unet.conv_in.weight[first, latents + at, 1, 1] = 1.0
        unet.conv_in.weight[first + 1, latents + at, 1, 1] = -1.0

    last = unet.up_blocks[-1].resnets[-1]
    below = last.in_channels - width
    last.conv2.weight.zero_(), last.conv2.bias.zero_()
    last.conv_shortcut.weight.zero_(), last.conv_shortcut.bias.zero_()
    for attention in getattr(unet.up_blocks[-1], "attentions", ())[-1:]:
        attention.proj_out.weight.zero_(), attention.proj_out.bias.zero_()
    unet.conv_out.weight.zero_(), unet.conv_out.bias.zero_()
    share = math.sqrt(2 * each / room)  # the others are nothing yet, and lessen the norm's deviation
    for at, first in enumerate(copied):
        for channel, sign in ((first, share), (first + 1, -share)):
            last.conv_shortcut.weight[channel, below + channel] = 1.0
            unet.conv_out.weight[at, channel, 1, 1] = sign
