"""Dropped conditions in training and three-way guidance in sampling, side by side: they must agree.

A denoiser that is guided (InstructPix2Pix, section 3.2) must answer three questions:
    T  with the words and the picture
    I  with the picture alone
    U  with neither
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mgie.ranges import Share


@dataclass(frozen=True, kw_only=True)
class DropConfig:
    """How often a sample is trained without its conditions, as parts of 1; at most 1 together."""

    text: Share = 0.05
    """Only the words are dropped."""
    both: Share = 0.05
    """Words and picture are dropped."""
    image: Share = 0.05
    """Only the picture is dropped."""


def drop_conditions(
    tokens: Float[Tensor, "b q e"],
    null: Float[Tensor, "1 q e"],
    source: Float[Tensor, "b c h w"],
    keep: Float[Tensor, " b"],
    *,
    drop: DropConfig,
) -> tuple[Float[Tensor, "b q e"], Float[Tensor, "b c h w"]]:
    """Replace words by `null` and pictures by zeros, where the uniform number `keep` of the sample says so.

    [0, text): no words; then `both`: neither; then `image`: no picture; the rest keeps both.
    """
    no_text = keep < drop.text + drop.both
    no_image = (keep >= drop.text) & (keep < drop.text + drop.both + drop.image)
    tokens = torch.where(no_text[:, None, None], null, tokens)
    source = torch.where(no_image[:, None, None, None], torch.zeros_like(source), source)
    return tokens, source


def branches(
    tokens: Float[Tensor, "b q e"],
    null: Float[Tensor, "1 q e"],
    source: Float[Tensor, "b c h w"],
    *,
    guidance: float,
    image_guidance: float,
) -> tuple[Float[Tensor, "nb q e"], Float[Tensor, "nb c h w"]]:
    """Conditions and sources of the questions that these scales need, one after the other."""
    count = branch_count(guidance, image_guidance)
    no_words = null.expand_as(tokens)
    return (
        torch.cat([tokens, no_words, no_words][:count]),
        torch.cat([source, source, torch.zeros_like(source)][:count]),
    )


def branch_count(guidance: float, image_guidance: float) -> int:
    """How many questions these scales need: T, or T and I, or T, I and U."""
    if image_guidance != 1.0:
        return 3
    return 2 if guidance != 1.0 else 1


def guided(
    predictions: Float[Tensor, "nb c h w"], *, guidance: float, image_guidance: float
) -> Float[Tensor, "b c h w"]:
    """One prediction from the answers to `branches`.

    Equal to U + guidance (T - I) + image_guidance (I - U), but a scale of 1 drops its term exactly.
    """
    answers = rearrange(predictions, "(n b) c h w -> n b c h w", n=branch_count(guidance, image_guidance))
    result = answers[0]
    if guidance != 1.0:
        result = result + (guidance - 1.0) * (answers[0] - answers[1])
    if image_guidance != 1.0:
        result = result + (image_guidance - 1.0) * (answers[1] - answers[2])
    return result
