"""The image tokens of LLaVA-v1, and how a vocabulary's two embedding tables grow."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from transformers import LlamaForCausalLM

IGNORE = -100
"""Label of a position where the model is not asked to speak."""

IM_PATCH = "<im_patch>"
"""Stands once for each feature that the vision tower gives."""
IM_START = "<im_start>"
IM_END = "<im_end>"
IMAGE_TOKENS = (IM_PATCH, IM_START, IM_END)
"""In the order in which LLaVA's training added them."""


class Vocabulary(Protocol):
    """What looking up a token needs."""

    def id_of(self, name: str) -> int:
        """Id of the token that is called `name`; an error where there is none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTokens:
    """Ids of the image tokens in one vocabulary."""

    patch: int
    start: int | None
    """Id of <im_start>. None: the model was trained without start and end."""
    end: int | None

    @classmethod
    def of(cls, vocabulary: Vocabulary, *, use_im_start_end: bool) -> "ImageTokens":
        """Ask `vocabulary` for the ids; a token that it lacks is an error."""
        return cls(
            patch=vocabulary.id_of(IM_PATCH),
            start=vocabulary.id_of(IM_START) if use_im_start_end else None,
            end=vocabulary.id_of(IM_END) if use_im_start_end else None,
        )


def image_block(patches: int, *, use_im_start_end: bool) -> str:
    """Text that stands for one picture: <im_start><im_patch>...<im_end>, with `patches` times <im_patch>."""
    block = IM_PATCH * patches
    return f"{IM_START}{block}{IM_END}" if use_im_start_end else block


def grow_tables(model: LlamaForCausalLM, count: int, *, generator: torch.Generator | None = None) -> None:
    """Append `count` rows to the input and to the output embeddings, drawn from N(0, initializer_range).

    Old rows keep their values. The parameters are new objects: build the optimizer afterwards.
    """
    old: nn.Embedding = model.model.embed_tokens
    head: nn.Linear = model.lm_head
    old.weight = _grown(old.weight, count, model.config.initializer_range, generator)
    head.weight = _grown(head.weight, count, model.config.initializer_range, generator)
    old.num_embeddings = head.out_features = old.weight.shape[0]
    model.config.vocab_size = model.vocab_size = model.model.vocab_size = old.weight.shape[0]


def _grown(table: nn.Parameter, count: int, std: float, generator: torch.Generator | None) -> nn.Parameter:
    fresh = torch.empty(count, table.shape[1]).normal_(0.0, std, generator=generator)
    rows = torch.cat([table.data, fresh.to(device=table.device, dtype=table.dtype)])
    return nn.Parameter(rows, requires_grad=table.requires_grad)
