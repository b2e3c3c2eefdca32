"""The published files of MIGC and MIGC++ <-> blocks by the attention that they belong to.

    MIGC     {"state_dict": {"model.diffusion_model.output_blocks.3.1. ... .migc.PARAMETER": ...}}
    MIGC++   {"up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.migc.PARAMETER": ...}

The first counts layers as Stable Diffusion 1's authors do, three to a level; what it says between number and
`migc` is not read. Both are pickles of tensors, or safetensors, which have no `state_dict` around them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llava_patch.folders import open_to_others, sync
from llava_patch.loading import put, typed
from llava_patch.shards import read_tensors
from mgie.controllers.layout_blocks import (
    AbstractLayoutBlock,
    LayoutBlockConfig,
    MIGCBlock,
    MIGCPlusBlock,
)
from mgie.errors import ConfigError, WeightsError

PUBLISHED_HEADS = 8
"""Attention heads of the published blocks: the only size that their tensors do not show."""
ATTENTION = ".transformer_blocks.0.attn2"
"""Of a transformer, the attention that a block takes the place of."""
PLUS = f"{ATTENTION}.processor.migc."
LDM = re.compile(r"[^.]+\.[^.]+\.(middle_block|input_blocks|output_blocks)\.(\d+)\.(?:.+\.)?migc\.(.+)")
SITE = re.compile(
    rf"(mid_block|down_blocks\.(\d+)|up_blocks\.(\d+))\.attentions\.(\d+){re.escape(ATTENTION)}"
)
LEVEL = 3
"""Blocks to a level, as Stable Diffusion 1's authors count."""
STATE = "state_dict"
WIDTHS = {"norm.bias": 1, "ea.to_k.weight": 2}
"""What tells a block's widths, and how many axes it has."""

Blocks = Mapping[str, AbstractLayoutBlock]
"""By the name of the attention in diffusers' UNet: "mid_block.attentions.0.transformer_blocks.0.attn2"."""


def read_blocks(
    path: str | Path, *, heads: int = PUBLISHED_HEADS, dtype: torch.dtype = torch.float32
) -> dict[str, AbstractLayoutBlock]:
    """The blocks of a published file, in its order, each of the kind that it holds.

    Raises one WeightsError that lists all that is missing, unexpected or of another shape.
    """
    tensors = read_tensors(path, within=STATE)
    plus = any(PLUS in name for name in tensors)
    kind, place = (MIGCPlusBlock, _plus_place) if plus else (MIGCBlock, _ldm_place)
    # Where a tensor belongs -> its name in the file; a second one for the same place stays unexpected.
    found: dict[tuple[str, str], str] = {}
    for name in tensors:
        if (where := place(name)) is not None:
            found.setdefault(where, name)
    sites = list(dict.fromkeys(site for site, _ in found))
    if not sites:
        raise WeightsError(
            f"{path} holds no block of MIGC or MIGC++ among {len(tensors)} tensors: expected names such as "
            f"mid_block.attentions.0{PLUS}norm.bias; give a published file, or one that was written here."
        )
    with torch.device("meta"):
        blocks = {site: kind(_config(site, found, tensors, heads, path)) for site in sites}
    together = nn.ModuleDict({_key(site): block for site, block in blocks.items()})
    keys = {_key(site): site for site in sites}

    def published(name: str) -> str:
        key, _, parameter = name.partition(".")
        return found.get((keys[key], parameter)) or _published(keys[key], parameter, kind)

    put(typed(together, dtype), [(path, tensors)], where=path, names=published)
    return {site: block.eval() for site, block in blocks.items()}


def write_blocks(blocks: Blocks, path: str | Path) -> Path:
    """Write blocks of one kind as its published file: .safetensors, or a pickle of tensors by any other name.

    Raises ConfigError for kinds that are mixed, and for attentions that the kind's file has no name for.
    """
    names = published_names(blocks)
    kind = type(next(iter(blocks.values())))
    tensors = {
        names[site, name]: value.detach().cpu().contiguous()
        for site, block in blocks.items()
        for name, value in block.state_dict().items()
    }
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".safetensors":
            save_file(tensors, partial, metadata={"format": "pt"})
        else:
            torch.save({STATE: tensors} if kind is MIGCBlock else tensors, partial)
        open_to_others(partial)
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def published_names(blocks: Blocks) -> dict[tuple[str, str], str]:
    """How a published file calls the parameters of blocks, by their attention and their own name.

    Raises ConfigError for kinds that are mixed, and for attentions that the kind's file has no name for.
    """
    kinds = {type(block) for block in blocks.values()}
    if len(kinds) != 1:
        told = " and ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise ConfigError(f"a published file cannot hold blocks of {told}: expected some, all of one kind.")
    (kind,) = kinds
    return {
        (site, name): _published(site, name, kind)
        for site, block in blocks.items()
        for name in block.state_dict()
    }


def _plus_place(name: str) -> tuple[str, str] | None:
    """The attention and the parameter that one of MIGC++'s names means."""
    before, mark, parameter = name.partition(PLUS)
    site = before + ATTENTION
    return (site, parameter) if mark and SITE.fullmatch(site) else None


def _ldm_place(name: str) -> tuple[str, str] | None:
    """The attention and the parameter that one of MIGC's names means."""
    match = LDM.fullmatch(name)
    if match is None:
        return None
    kind, number, parameter = match[1], int(match[2]), match[3]
    if kind == "middle_block":
        layer = "mid_block.attentions.0"
    elif kind == "output_blocks":
        layer = f"up_blocks.{number // LEVEL}.attentions.{number % LEVEL}"
    elif number % LEVEL:
        layer = f"down_blocks.{number // LEVEL}.attentions.{number % LEVEL - 1}"
    else:
        return None  # the first convolution, and what halves
    return layer + ATTENTION, parameter


def _published(site: str, parameter: str, kind: type[AbstractLayoutBlock]) -> str:
    """How a published file calls a block's parameter. Raises ConfigError where it has no name for it."""
    match = SITE.fullmatch(site)
    if match and kind is MIGCPlusBlock:
        return site.removesuffix(ATTENTION) + PLUS + parameter
    number = int(match[4]) if match else LEVEL
    if match is None or number >= LEVEL - (match[2] is not None):
        raise ConfigError(
            f"{site} is no attention that a file of {kind.__name__}s has a name for: expected one such as "
            f"up_blocks.1.attentions.0{ATTENTION}."
        )
    if match[2] is not None:
        layer = f"input_blocks.{LEVEL * int(match[2]) + number + 1}.1"
    elif match[3] is not None:
        layer = f"output_blocks.{LEVEL * int(match[3]) + number}.1"
    else:
        layer = "middle_block.1"
    return f"model.diffusion_model.{layer}{ATTENTION}.migc.{parameter}"


def _config(
    site: str, found: dict[tuple[str, str], str], tensors: dict[str, Tensor], heads: int, path: str | Path
) -> LayoutBlockConfig:
    """Sizes of a block, told by its tensors."""
    missing = [name for name in WIDTHS if (site, name) not in found]
    told = {name: tensors[found[site, name]] for name in WIDTHS if name not in missing}
    wrong = [name for name, tensor in told.items() if tensor.ndim != WIDTHS[name]]
    if missing or wrong:
        raise WeightsError(
            f"{path} does not tell how wide its block in {site} is: missing "
            f"{', '.join(missing) or 'nothing'}, misshapen {', '.join(wrong) or 'nothing'}; fetch it again."
        )
    width, condition_width = (int(tensor.shape[-1]) for tensor in told.values())
    return LayoutBlockConfig(width=width, condition_width=condition_width, heads=heads)


def _key(site: str) -> str:
    """A name that a ModuleDict takes."""
    return site.replace(".", "-")
