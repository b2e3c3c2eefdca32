"""One Stable Diffusion file in the layout of its first authors -> the names and configurations of diffusers.

Such a file has no configuration; all that matters of it shows in the tensors, but the number of attention
heads, which goes by the kind of the file: eight in Stable Diffusion 1, channels / 64 in 2.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
_RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "emb_layers.1.": "time_emb_proj.",
    "skip_connection.": "conv_shortcut.",
    "nin_shortcut.": "conv_shortcut.",
}
_ATTENTION = {"norm.": "group_norm.", "q.": "to_q.", "k.": "to_k.", "v.": "to_v.", "proj_out.": "to_out.0."}
_ENDS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
    "middle_block.0.": "mid_block.resnets.0.",
    "middle_block.1.": "mid_block.attentions.0.",
    "middle_block.2.": "mid_block.resnets.1.",
    "encoder.norm_out.": "encoder.conv_norm_out.",
    "decoder.norm_out.": "decoder.conv_norm_out.",
}


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
    try:
        config, rename = _unet(own) if part == "unet" else _vae(own)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"the {part} in {path} has no sizes that can be told ({type(error).__name__}: {error}); fetch "
            "the file again."
        ) from error
    tensors: dict[str, Tensor] = {}
    for name, tensor in own.items():
        ours = rename(name)
        # Attention of a VAE was written as convolutions of one pixel.
        flat = part == "vae" and ".attentions." in ours and tensor.ndim == 4
        tensors[ours] = tensor[:, :, 0, 0] if flat else tensor
    return config, tensors


def _unet(own: dict[str, Tensor]) -> tuple[dict[str, Any], Callable[[str], str]]:
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
    projection = own["middle_block.1.proj_in.weight"]
    linear = projection.ndim == 2
    words = own["middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    config = {
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

    def rename(name: str) -> str:
        for old, new in _ENDS.items():
            if name.startswith(old):
                return new + _inner(name[len(old) :], _RESNET)
        found = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
        if not found:
            return name
        way, number, place, rest = found[1], int(found[2]), int(found[3]), found[4]
        level, layer = divmod(number - (way == "input"), layers[0] + 1)
        block = f"down_blocks.{level}" if way == "input" else f"up_blocks.{level}"
        if rest.startswith("op."):
            return f"{block}.downsamplers.0.conv.{rest[3:]}"
        if place and rest.startswith("conv."):
            return f"{block}.upsamplers.0.{rest}"
        kind = "attentions" if place else "resnets"
        return f"{block}.{kind}.{layer}.{_inner(rest, {} if place else _RESNET)}"

    return config, rename


def _vae(own: dict[str, Tensor]) -> tuple[dict[str, Any], Callable[[str], str]]:
    levels = _blocks(own, r"encoder\.down\.(\d+)\.")
    channels = [own[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    config = {
        "in_channels": own["encoder.conv_in.weight"].shape[1],
        "out_channels": own["decoder.conv_out.weight"].shape[0],
        "latent_channels": own["post_quant_conv.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": _blocks(own, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": SCALE,
    }

    def rename(name: str) -> str:
        for old, new in _ENDS.items():
            if name.startswith(old):
                return new + name[len(old) :]
        if found := re.fullmatch(r"(encoder|decoder)\.mid\.(block|attn)_(\d)\.(.+)", name):
            half, kind, number, rest = found[1], found[2], int(found[3]) - 1, found[4]
            if kind == "attn":
                return f"{half}.mid_block.attentions.{number}.{_inner(rest, _ATTENTION)}"
            return f"{half}.mid_block.resnets.{number}.{_inner(rest, _RESNET)}"
        if found := re.fullmatch(r"(encoder|decoder)\.(down|up)\.(\d+)\.(.+)", name):
            half, way, level, rest = found[1], found[2], int(found[3]), found[4]
            # The decoder's levels were counted from the other end.
            block = f"{half}.{way}_blocks.{level if way == 'down' else levels - 1 - level}"
            if rest.startswith(f"{way}sample."):
                return f"{block}.{way}samplers.0.{rest.partition('.')[2]}"
            layer, _, rest = rest.removeprefix("block.").partition(".")
            return f"{block}.resnets.{layer}.{_inner(rest, _RESNET)}"
        return name

    return config, rename


def _inner(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def _blocks(own: dict[str, Tensor], pattern: str) -> int:
    """How many numbers, from 0, the pattern finds."""
    return max((int(found[1]) for name in own if (found := re.match(pattern, name))), default=-1) + 1
