"""Masks within a denoiser: at its layers' sizes, and around attention to the condition.

Cross-attention masking follows PFB-Diff (Huang et al. 2025, arXiv 2306.16894, section 3.3): words are heard
where they belong. Where the condition is not made of words, as an edit head's, the part outside listens to
the condition that says nothing instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from mgie.types import AttentionCall, Branch, Point, Rows, Site, Size

Resize = Literal["area", "bicubic"]
"""How masks become smaller. Area: the share of each cell that is inside. Bicubic: the original's, which
leaves [0, 1] and misses what is between its taps."""
Masks = Mapping[Size, Float[Tensor, "b 1 _ _"]]
"""Masks by height and width."""
Attend = Callable[[AttentionCall], Tensor]


def mixed(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """`inside` where the mask is 1, `outside` where it is 0, both bit for bit; between them their mean."""
    between = mask * inside + (1 - mask) * outside
    return torch.where(mask == 1, inside, torch.where(mask == 0, outside, between))


def sized(mask: Float[Tensor, "b 1 y x"], size: Size, how: Resize = "area") -> Float[Tensor, "b 1 _ _"]:
    """A mask at another height and width."""
    if mask.shape[-2:] == size:
        return mask
    if how == "area":
        return F.interpolate(mask, size, mode="area")
    return F.interpolate(mask, size, mode="bicubic", align_corners=False)


def at_levels(
    mask: Float[Tensor, "b 1 y x"], grid: Size, *, first: int = 0, last: int = 16, how: Resize = "area"
) -> Masks:
    """A mask at the sizes of a denoiser's levels over latents of height and width `grid`, from the `first`
    time that these are halved to the `last`."""
    masks, (height, width) = {}, grid
    for level in range(last + 1):
        if level >= first:
            masks[height, width] = sized(mask, (height, width), how)
        if height == width == 1:
            break
        height, width = (height + 1) // 2, (width + 1) // 2
    return masks


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class EditMasking:
    """Inside the mask the layer attends to the condition, outside to the null; a soft mask mixes both. Only
    where words are asked about: what I and U are told is the null already."""

    masks: Masks
    """At the sizes of the layers where this happens."""
    null: Float[Tensor, "b q e"]
    null_mask: Bool[Tensor, "b q"] | None = None
    """True where there is a token."""
    during: tuple[float, float] = (0.0, 1.0)
    order: int = 10

    def wants(self, site: Site) -> bool:
        """All attention to the condition."""
        return site.cross

    def __call__(self, call: AttentionCall, attend: Attend) -> Float[Tensor, "r p c"]:
        """Attention twice for the rows T, once for the others."""
        out = attend(call)
        if call.grid not in self.masks or "T" not in call.rows.names:
            return out
        told, rows = call.rows.of("T"), replace(call.rows, names=("T",))
        bias = None
        if self.null_mask is not None:
            bias = rows.each(as_bias(self.null_mask[:, None], call.states.dtype))
        silent = attend(
            replace(
                call, states=call.states[told], context=call.heard(rows.each(self.null)), bias=bias,
                rows=rows,
            )
        )  # fmt: skip
        mask = rows.each(_by_position(self.masks[call.grid])).to(out)
        return torch.cat([out[: told.start], mixed(mask, out[told], silent), out[told.stop :]])


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TokenMasking:
    """Some tokens are heard only inside the mask, some only outside, the rest everywhere. The first token,
    which begins every sentence, is listed in neither. Several regions are several hooks."""

    masks: Masks
    """At the sizes of the layers where this happens; above 0.5 is inside."""
    inside: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()
    seen_by: tuple[Branch, ...] = ("T",)
    """The branches that it holds for."""
    sites: frozenset[str] | None = None
    """Names of the layers. None: all that attend to the condition."""
    during: tuple[float, float] = (0.0, 1.0)
    order: int = 10

    def wants(self, site: Site) -> bool:
        """Attention to the condition."""
        return site.cross and (self.sites is None or site.name in self.sites)

    def __call__(self, call: AttentionCall, attend: Attend) -> Float[Tensor, "r p c"]:
        """A position that would hear nothing hears everything."""
        here: list[Branch] = [name for name in call.rows.names if name in self.seen_by]
        if call.grid not in self.masks or not here or call.context is None:
            return attend(call)
        inside = _by_position(self.masks[call.grid]) > 0.5
        allowed = torch.ones_like(inside).repeat(1, 1, call.context.shape[1])
        for tokens, where in ((self.inside, inside), (self.outside, ~inside)):
            for token in tokens:
                allowed[:, :, token] = where[:, :, 0]
        allowed = allowed | ~allowed.any(dim=-1, keepdim=True)
        if len(here) == len(call.rows.names):
            return attend(replace(call, bias=as_bias(call.rows.each(allowed), call.states.dtype, call.bias)))
        out = attend(call)
        for name in here:
            at, rows = call.rows.of(name), replace(call.rows, names=(name,))
            bias = None if call.bias is None else call.bias[at]
            masked = attend(
                replace(
                    call, states=call.states[at], context=call.context[at], rows=rows,
                    bias=as_bias(rows.each(allowed), call.states.dtype, bias),
                )
            )  # fmt: skip
            out = torch.cat([out[: at.start], masked, out[at.stop :]])
        return out


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FeatureBlending:
    """Features flow inside the mask, those of the reference outside (PFB-Diff, section 3.2): at the same
    point of the same pass, whose rows R are the reference."""

    masks: Masks
    """At the sizes where this happens."""
    strength: float = 1.0
    """How much of the reference comes in outside."""
    points: frozenset[Point] | None = None
    """None: all points of these sizes."""
    recorded: Mapping[Point, Float[Tensor, "b c _ _"]] | None = None
    """Features of a pass of the reference by itself, instead of rows R."""
    during: tuple[float, float] = (0.0, 1.0)

    def __call__(
        self, point: Point, states: Float[Tensor, "r c _ _"], rows: Rows, grid: Size, /
    ) -> Float[Tensor, "r c _ _"]:
        """All rows but R."""
        del grid
        size = (states.shape[-2], states.shape[-1])
        if size not in self.masks or not (self.points is None or point in self.points):
            return states
        reference = states[rows.of("R")] if self.recorded is None else self.recorded[point]
        mask = self.masks[size].to(states)
        mask = mask if self.strength == 1 else 1 - (1 - mask) * self.strength
        return torch.cat(
            [
                states[rows.of(name)] if name == "R" else mixed(mask, states[rows.of(name)], reference)
                for name in rows.names
            ]
        )


def _by_position(mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b p 1"]:
    return mask.flatten(2).transpose(1, 2)


def as_bias(allowed: Bool[Tensor, "r _ q"], dtype: torch.dtype, other: Tensor | None = None) -> Tensor:
    """What is added to scores; never beyond the lowest number, so that two such masks make no infinity."""
    other = torch.zeros((), dtype=dtype, device=allowed.device) if other is None else other
    lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=allowed.device)
    return torch.where(allowed, other, lowest)
