"""The image tokens of LLaVA-v1, and how a vocabulary's two embedding tables grow."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from llava_patch.tokenizer import LlavaTokenizer

IGNORE = -100
"""Label of a position where the model is not asked to speak."""

IM_PATCH = "<im_patch>"
"""Stands once for each feature that the vision tower gives."""
IM_START = "<im_start>"
IM_END = "<im_end>"
IMAGE_TOKENS = (IM_PATCH, IM_START, IM_END)
"""In the order in which LLaVA's training added them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTokens:
    """Ids of the image tokens in one vocabulary."""

    patch: int
    start: int | None
    """Id of <im_start>. None: the model was trained without start and end."""
    end: int | None

    @classmethod
    def of(cls, tokenizer: LlavaTokenizer, *, use_im_start_end: bool) -> "ImageTokens":
        """Ask `tokenizer` for the ids; a token that it lacks is an error."""
        return cls(
            patch=tokenizer.id_of(IM_PATCH),
            start=tokenizer.id_of(IM_START) if use_im_start_end else None,
            end=tokenizer.id_of(IM_END) if use_im_start_end else None,
        )


def image_block(patches: int, *, use_im_start_end: bool) -> str:
    """Text that stands for one picture: <im_start><im_patch>...<im_end>, with `patches` times <im_patch>."""
    block = IM_PATCH * patches
    return f"{IM_START}{block}{IM_END}" if use_im_start_end else block


def grow_tables(model: LlamaForCausalLM, count: int, *, generator: torch.Generator | None = None) -> None:
    """Append `count` rows to the input and to the output embeddings, drawn from N(0, initializer_range).

    Old rows keep their values. The parameters are new objects: build the optimizer afterwards.
    """
    table, head = model.model.embed_tokens, model.lm_head
    table.weight = _grown(table.weight, count, model.config.initializer_range, generator)
    head.weight = _grown(head.weight, count, model.config.initializer_range, generator)
    size = table.weight.shape[0]
    table.num_embeddings = head.out_features = size
    model.config.vocab_size = model.vocab_size = model.model.vocab_size = size


def _grown(table: Tensor, count: int, std: float, generator: torch.Generator | None) -> nn.Parameter:
    # Drawn in double, then rounded: drawn in single they have other last digits on other processors.
    fresh = torch.empty(count, table.shape[1], dtype=torch.float64).normal_(0.0, std, generator=generator)
    rows = torch.cat([table.data, fresh.to(device=table.device, dtype=table.dtype)])
    return nn.Parameter(rows, requires_grad=table.requires_grad)
