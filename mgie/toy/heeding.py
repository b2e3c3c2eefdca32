"""Learning to paint each place from what is told of it.

A denoiser without position encodings learns late where it is: it painted right things at wrong places. So one
head of each attention to words is told to look at the state of the place that is painted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mgie.toy.things import PLACES, UNIT
from mgie.training.task import EditTask
from mgie.types import AttentionCall, Batch, Context, ControlPlan, Draws, Site

HEED = "heed"
"""Name of the loss."""


class PaintTask(EditTask):
    """Learn to edit, and where to look for what is told of a place."""

    def __init__(self, *args: object, heed_weight: float, **more: object):
        """`heed_weight`: of the loss beside the others."""
        super().__init__(*args, **more)  # pyright: ignore
        self.weights = {**self.weights, HEED: heed_weight}

    def plan(
        self, batch: Batch, context: Context, draws: Draws, told: Bool[Tensor, " b"], latents: Tensor
    ) -> ControlPlan:
        """The attentions to words are watched."""
        del batch, context, draws, told, latents
        watched = Heeding()
        return ControlPlan(attention=(watched,), losses={HEED: watched.total})


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Heeding:
    """Watches what the first head of each attention to words looks at; it changes nothing."""

    found: dict[str, Tensor] = field(default_factory=dict)
    """Of each layer its sum over samples."""
    during: tuple[float, float] = (0.0, 1.0)
    order: int = 25

    def wants(self, site: Site) -> bool:
        """All attentions to words."""
        return site.cross

    def __call__(
        self, call: AttentionCall, attend: Callable[[AttentionCall], Tensor]
    ) -> Float[Tensor, "r p c"]:
        """What comes out, as it is."""
        assert call.context is not None
        self.found[call.site.name] = astray(call.attn, call.states, call.heard(call.context), call.grid)
        return attend(call)

    def total(self) -> Float[Tensor, ""]:
        """The mean of the layers; a sum over samples."""
        return torch.stack([self.found[name] for name in sorted(self.found)]).mean()


def astray(
    attn: Any, states: Float[Tensor, "b p c"], heard: Float[Tensor, "b q e"], grid: tuple[int, int]
) -> Float[Tensor, ""]:
    """Cross-entropy of where the first head looks and the places (the first nine states) that a position
    lies in; of each sample the mean over positions."""
    width = attn.to_q.out_features // attn.heads
    asked = nn.functional.linear(states, attn.to_q.weight[:width])
    keys = nn.functional.linear(heard, attn.to_k.weight[:width])
    looked = (torch.einsum("bpd,bqd->bpq", asked, keys).float() * attn.scale).log_softmax(-1)
    lies = shares_of_places(grid[0], grid[1]).to(looked)
    return -(looked[..., : len(PLACES)] * lies).sum((1, 2)).sum() / lies.shape[0]


@lru_cache(maxsize=8)
def shares_of_places(height: int, width: int) -> Float[Tensor, "_ 9"]:
    """How much of each position of a grid lies nearest to each place's middle; a row sums to 1."""
    down, across = (sorted({middle[axis] for middle in PLACES.values()}) for axis in (1, 0))
    rows, columns = (_nearest(middles, cells) for middles, cells in ((down, height), (across, width)))
    return rearrange(torch.einsum("yi,xj->yxij", rows, columns), "y x i j -> (y x) (i j)")


def _nearest(middles: list[int], cells: int) -> Float[Tensor, "cells 3"]:
    """The same along one side."""
    fine = (torch.arange(UNIT) + 0.5)[:, None]
    nearest = (fine - torch.tensor(middles)).abs().argmin(1)
    return nn.functional.one_hot(nearest, len(middles)).float().reshape(cells, -1, len(middles)).mean(1)
