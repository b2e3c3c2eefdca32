"""Dropped conditions in training, guidance in sampling: side by side, they must agree.

A denoiser that is guided (InstructPix2Pix, Brooks et al. 2023, section 3.2) must answer three questions:
    T  with the words and the picture
    I  with the picture alone
    U  with neither
and of a reference, R, the picture alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mgie.errors import DataError
from mgie.ranges import Share
from mgie.types import Branch, Condition, Context, ControlPlan, Rows, Source


@dataclass(frozen=True, kw_only=True)
class DropConfig:
    """How often a sample is trained without its conditions, as parts of 1; at most 1 together."""

    text: Share = 0.05
    """Only the words are dropped."""
    both: Share = 0.05
    """Words and picture are dropped."""
    image: Share = 0.05
    """Only the picture is dropped."""
    order: Literal["text both image", "text image both"] = "text both image"
    """Which of them a uniform number means, from 0 on; MIGE's authors have the second."""


def drop_conditions(
    context: Context, source: Source, keep: Float[Tensor, " b"], *, drop: DropConfig
) -> tuple[Condition, Source, Bool[Tensor, " b"]]:
    """Replace words by the null and pictures by zeros, where the uniform number `keep` of the sample says so.

    [0, text): no words; then `both`: neither; then `image`: no picture; the rest keeps both. With the other
    `order`, the last two the other way round. The last of the three says who is still told the words.
    """
    first, any_ = drop.text, drop.text + drop.both + drop.image
    no_image = (keep >= first) & (keep < any_)
    if drop.order == "text both image":
        no_text = keep < first + drop.both
    else:
        no_text = (keep < first) | ((keep >= first + drop.image) & (keep < any_))
    condition, null = same_shape(context)
    condition = Condition(
        tokens=torch.where(no_text[:, None, None], null.tokens, condition.tokens),
        mask=_where(no_text, null.mask, condition.mask),
        pooled=_where(no_text, null.pooled, condition.pooled),
        sizes=_where(no_text, null.sizes, condition.sizes),
    )

    def kept(picture: Tensor) -> Tensor:
        return torch.where(no_image[:, None, None, None], torch.zeros_like(picture), picture)

    return condition, _of_each(kept, source), ~no_text


def questions(
    source: Source, *, guidance: float | Float[Tensor, "_ 1 h w"], image_guidance: float
) -> tuple[Branch, ...]:
    """Which questions these scales need; without a source, T and U are all that there are."""
    words = isinstance(guidance, Tensor) or guidance != 1.0
    if source is None:
        return ("T", "U") if words else ("T",)
    return ("T", "I", "U") if image_guidance != 1.0 else ("T", "I") if words else ("T",)


def branches(
    context: Context, source: Source, *, names: tuple[Branch, ...]
) -> tuple[Condition, Source, Rows]:
    """Conditions and sources of the questions `names`, one after the other; U sees zeros for a source."""
    condition, null = same_shape(context)
    asked = [condition if name == "T" else null for name in names]

    def shown(picture: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(picture) if name == "U" else picture for name in names])

    return (
        Condition(
            tokens=torch.cat([each.tokens for each in asked]),
            mask=_cat([each.mask for each in asked]),
            pooled=_cat([each.pooled for each in asked]),
            sizes=_cat([each.sizes for each in asked]),
        ),
        _of_each(shown, source),
        Rows(names=names, batch=len(condition.tokens)),
    )


def guided(
    predictions: Float[Tensor, "r c h w"],
    rows: Rows,
    *,
    guidance: float | Float[Tensor, "_ 1 h w"],
    image_guidance: float,
) -> Float[Tensor, "b c h w"]:
    """One prediction from the answers to `branches`.

    Equal to U + guidance (T - I) + image_guidance (I - U), but a scale of 1 drops its term exactly. Without a
    picture, I is U.
    """
    told = result = predictions[rows.of("T")]
    silent: Branch = "I" if "I" in rows.names else "U"
    if silent in rows.names and (isinstance(guidance, Tensor) or guidance != 1.0):
        result = result + (guidance - 1.0) * (told - predictions[rows.of(silent)])
    if silent == "I" and "U" in rows.names:
        result = result + (image_guidance - 1.0) * (predictions[rows.of("I")] - predictions[rows.of("U")])
    return result


def strength(
    plan: ControlPlan | None, guidance: float, *, like: Float[Tensor, "b c h w"]
) -> float | Float[Tensor, "_ 1 h w"]:
    """How much the words count: a plan's map, in the type of the latents `like`, else the number.

    Raises DataError for a map of another shape.
    """
    if plan is None or plan.guidance is None:
        return guidance
    batch, _, height, width = like.shape
    if plan.guidance.shape not in ((batch, 1, height, width), (1, 1, height, width)):
        raise DataError(
            f"the plan's map of guidance is {tuple(plan.guidance.shape)}: expected "
            f"{(batch, 1, height, width)}, a number for each latent of each picture; resize it."
        )
    return plan.guidance.to(like)


def same_shape(context: Context) -> tuple[Condition, Condition]:
    """The condition and the null with as many rows and tokens each; the shorter is padded, under its mask.

    Raises DataError where one has what the other lacks.
    """
    told, null = context.condition, context.null
    for name in ("pooled", "sizes"):
        if (getattr(told, name) is None) != (getattr(null, name) is None):
            raise DataError(
                f"of the condition and the one that says nothing, only one has `{name}`: expected both or "
                "neither; have the encoder give it for both."
            )
    count, lengths = len(told.tokens), (told.tokens.shape[1], null.tokens.shape[1])
    length = max(lengths)
    masked = told.mask is not None or null.mask is not None or lengths[0] != lengths[1]

    def padded(condition: Condition, otherwise: Tensor | None) -> Condition:
        tokens, mask = condition.tokens, condition.mask
        if masked and mask is None:
            mask = otherwise
        if masked and mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        pooled, sizes = condition.pooled, condition.sizes
        return Condition(
            tokens=F.pad(tokens, (0, 0, 0, length - tokens.shape[1])).expand(count, -1, -1),
            mask=None if mask is None else F.pad(mask, (0, length - mask.shape[1])).expand(count, -1),
            pooled=None if pooled is None else pooled.expand(count, -1),
            sizes=None if sizes is None else sizes.expand(count, -1),
        )

    # A null without a mask takes that of whom it replaces.
    whose = told.mask if lengths[0] == lengths[1] else None
    return padded(told, None), padded(null, whose)


def rows_of(context: Context, rows: list[int], dtype: torch.dtype) -> Context:
    """The context of some of the samples, for a denoiser of this type."""

    def taken(held: Any, rows: list[int]) -> Any:
        if isinstance(held, Condition):
            return replace(
                held, **{each.name: taken(getattr(held, each.name), rows) for each in fields(held)}
            )
        some = None if held is None else held[rows]
        return some.to(dtype) if some is not None and some.is_floating_point() else some

    one = [0] if len(context.null.tokens) == 1 else rows
    some = {
        each.name: taken(getattr(context, each.name), rows) for each in fields(context) if each.name != "null"
    }
    return Context(null=taken(context.null, one), **some)


def _where(chosen: Bool[Tensor, " b"], one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else torch.where(chosen[:, None], one, other)


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None


def _of_each(change: Callable[[Tensor], Tensor], source: Source) -> Source:
    if source is None:
        return None
    return tuple(map(change, source)) if isinstance(source, tuple) else change(source)
