"""Dropped conditions in training, guidance in sampling: side by side, they must agree.

A denoiser that is guided (InstructPix2Pix, Brooks et al. 2023, section 3.2) must answer three questions:
    T  with the words and the picture
    I  with the picture alone
    U  with neither
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mgie.ranges import Share
from mgie.types import Branch, Condition, Context, Rows


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
    context: Context,
    source: Float[Tensor, "b c h w"],
    keep: Float[Tensor, " b"],
    *,
    drop: DropConfig,
) -> tuple[Condition, Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
    """Replace words by the null and pictures by zeros, where the uniform number `keep` of the sample says so.

    [0, text): no words; then `both`: neither; then `image`: no picture; the rest keeps both. The last of the
    three says who is still told the words.
    """
    no_text = keep < drop.text + drop.both
    no_image = (keep >= drop.text) & (keep < drop.text + drop.both + drop.image)
    condition, null = same_shape(context)
    condition = Condition(
        tokens=torch.where(no_text[:, None, None], null.tokens, condition.tokens),
        mask=_where(no_text, null.mask, condition.mask),
        pooled=_where(no_text, null.pooled, condition.pooled),
        sizes=condition.sizes,
    )
    source = torch.where(no_image[:, None, None, None], torch.zeros_like(source), source)
    return condition, source, ~no_text


def branches(
    context: Context,
    source: Float[Tensor, "b c h w"],
    *,
    guidance: float | Float[Tensor, "b 1 h w"],
    image_guidance: float,
) -> tuple[Condition, Float[Tensor, "r c h w"], Rows]:
    """Conditions and sources of the questions that these scales need, one after the other."""
    words = isinstance(guidance, Tensor) or guidance != 1.0
    count = 3 if image_guidance != 1.0 else 2 if words else 1
    names: tuple[Branch, ...] = ("T", "I", "U")
    rows = Rows(names=names[:count], batch=len(source))
    condition, null = same_shape(context)
    asked = [condition, null, null][:count]
    return (
        Condition(
            tokens=torch.cat([each.tokens for each in asked]),
            mask=_cat([each.mask for each in asked]),
            pooled=_cat([each.pooled for each in asked]),
            sizes=_cat([condition.sizes] * count),
        ),
        torch.cat([source, source, torch.zeros_like(source)][:count]),
        rows,
    )


def guided(
    predictions: Float[Tensor, "r c h w"],
    rows: Rows,
    *,
    guidance: float | Float[Tensor, "b 1 h w"],
    image_guidance: float,
) -> Float[Tensor, "b c h w"]:
    """One prediction from the answers to `branches`.

    Equal to U + guidance (T - I) + image_guidance (I - U), but a scale of 1 drops its term exactly.
    """
    told = result = predictions[rows.of("T")]
    if "I" in rows.names and (isinstance(guidance, Tensor) or guidance != 1.0):
        result = result + (guidance - 1.0) * (told - predictions[rows.of("I")])
    if "U" in rows.names:
        result = result + (image_guidance - 1.0) * (predictions[rows.of("I")] - predictions[rows.of("U")])
    return result


def same_shape(context: Context) -> tuple[Condition, Condition]:
    """The condition and the null with as many rows and tokens each; the shorter is padded, under its mask."""
    told, null = context.condition, context.null
    count, lengths = len(told.tokens), (told.tokens.shape[1], null.tokens.shape[1])
    length = max(lengths)
    masked = told.mask is not None or null.mask is not None or lengths[0] != lengths[1]

    def padded(condition: Condition, otherwise: Tensor | None) -> Condition:
        tokens, mask = condition.tokens, condition.mask
        if masked and mask is None:
            mask = otherwise
        if masked and mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        pooled = condition.pooled
        return Condition(
            tokens=F.pad(tokens, (0, 0, 0, length - tokens.shape[1])).expand(count, -1, -1),
            mask=None if mask is None else F.pad(mask, (0, length - mask.shape[1])).expand(count, -1),
            pooled=None if pooled is None else pooled.expand(count, -1),
            sizes=told.sizes,
        )

    # A null without a mask takes that of whom it replaces.
    whose = told.mask if lengths[0] == lengths[1] else None
    return padded(told, None), padded(null, whose)


def _where(chosen: Bool[Tensor, " b"], one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else torch.where(chosen[:, None], one, other)


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None
