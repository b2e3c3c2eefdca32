"""One Stable Diffusion file -> diffusers' names and configurations, told by its tensors.

The names are diffusers' own work, but it passes over what it does not know, and would ask the hub for a
configuration. Such a file has none; all that matters of it shows in the tensors, but the number of attention
heads, which goes by the kind of the file: eight in Stable Diffusion 1, channels / 64 in 2.
"""

import re
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor

from llava_patch.shards import read_tensors
from mgie.errors import WeightsError

SINGLE_FILES = (".safetensors", ".ckpt")
PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
SCALE = 0.18215
"""What latents of Stable Diffusion's VAE are multiplied by."""

_OTHERS = (
    r"cond_stage_model\.|model_ema\.|(alphas|betas|sqrt|log_one|posterior|logvar|scale_factor|global_step)"
)
"""Beginnings of what else such files hold: text encoder, averages, buffers of the schedule."""


def is_single_file(where: str | Path) -> bool:
    """Whether this names one file rather than a folder or hub id."""
    return Path(where).suffix in SINGLE_FILES


def read_single(path: str | Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of the "unet" or the "vae" in a file, as diffusers has them.

    Raises WeightsError, also for a file that holds anything that is not known. UserError where it cannot be
    read.
    """
    held = read_tensors(path, within="state_dict")
    known = tuple(PREFIXES.values())
    strange = [name for name in held if not name.startswith(known) and not re.match(_OTHERS, name)]
    prefix = PREFIXES[part]
    own = {name[len(prefix) :]: tensor for name, tensor in held.items() if name.startswith(prefix)}
    if strange or not own or "label_emb.0.0.weight" in own:
        reason = (
            f"it has {', '.join(strange[:8])}{' ...' if len(strange) > 8 else ''}"
            if strange
            else f"its {part} has labels"
            if own
            else f"it has no {prefix}*"
        )
        raise WeightsError(
            f"{path} is no file of Stable Diffusion 1 or 2 in its authors' layout ({reason}); give such a "
            "file, or a diffusers folder."
        )
    told, convert = _TOLD[part]
    try:
        config = told(own)
        tensors = convert({prefix + name: tensor for name, tensor in own.items()}, config)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise WeightsError(
            f"the {part} in {path} cannot be told by its tensors ({type(error).__name__}: {error}); fetch "
            "the file again."
        ) from error
    # For a bias that is not there it gives None.
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    used = {tensor.data_ptr() for tensor in tensors.values()}
    left = {name: tensor for name, tensor in own.items() if tensor.data_ptr() not in used}
    return config, tensors | left


def _unet(own: dict[str, Tensor]) -> dict[str, Any]:
    """Configuration of a UNet."""
    channels, attends, layers = [], [], []
    count = 0
    for block in range(1, _blocks(own, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{block}.0.op.weight" in own:
            layers.append(count)
            count = 0
            continue
        count += 1
        if count == 1:
            channels.append(own[f"input_blocks.{block}.0.in_layers.2.weight"].shape[0])
            attends.append(f"input_blocks.{block}.1.norm.weight" in own)
    layers.append(count)
    if len(set(layers)) != 1:
        raise ValueError(f"levels of {layers} blocks")
    linear = own["middle_block.1.proj_in.weight"].ndim == 2
    words = own["middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    return {
        "in_channels": own["input_blocks.0.0.weight"].shape[1],
        "out_channels": own["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in attends[::-1]],
        "cross_attention_dim": words.shape[1],
        "use_linear_projection": linear,
        "attention_head_dim": [width // 64 for width in channels] if linear else 8,
    }


def _vae(own: dict[str, Tensor]) -> dict[str, Any]:
    """Configuration of a VAE."""
    levels = _blocks(own, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": own["encoder.conv_in.weight"].shape[1],
        "out_channels": own["decoder.conv_out.weight"].shape[0],
        "latent_channels": own["post_quant_conv.weight"].shape[1],
        "block_out_channels": [
            own[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)
        ],
        "layers_per_block": _blocks(own, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": SCALE,
    }


def _blocks(own: dict[str, Tensor], pattern: str) -> int:
    """How many numbers, from 0, the pattern finds."""
    return max((int(found[1]) for name in own if (found := re.match(pattern, name))), default=-1) + 1


_TOLD = {"unet": (_unet, convert_ldm_unet_checkpoint), "vae": (_vae, convert_ldm_vae_checkpoint)}
"""What tells the configuration of a part by its tensors, and diffusers' translation of their names."""
