"""Attention beside a denoiser's own, to the tokens of reference pictures.

Decoupled cross-attention (IP-Adapter, Ye et al. 2023, section 3.2.2), outside the denoiser. What it adds
starts at zero: untrained, the denoiser's answers keep their bits.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mgie.types import AttentionCall, Box, ControlPlan, Site, Size

HEADS = 8
"""Most attention heads."""


class BesideBlocks(nn.Module):
    """One small attention for each of a denoiser's attentions to its condition."""

    def __init__(self, sites: Mapping[str, int], *, width: int):
        """Names of the attentions with their widths, and the width of the tokens."""
        super().__init__()
        self.sites, self.width = dict(sites), width
        self.blocks = nn.ModuleDict({_key(name): _block(wide, width) for name, wide in sites.items()})

    def plan(
        self,
        tokens: Float[Tensor, "b k f"],
        mask: Bool[Tensor, "b k"],
        told: Bool[Tensor, " b"] | None = None,
        *,
        scale: float = 1.0,
        box: Box | None = None,
    ) -> ControlPlan:
        """Attend to the tokens where the mask is True; `told`: who is told anything (None: all). What is
        found counts `scale` times, and inside the `box` alone."""
        present = mask.any(dim=1) if told is None else mask.any(dim=1) & told
        hook = Beside(blocks=self, tokens=tokens, mask=mask, present=present, scale=scale, box=box)
        return ControlPlan(attention=(hook,))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Beside:
    """Adds what the words' rows find in the tokens; who has no token keeps the bits."""

    blocks: BesideBlocks
    tokens: Float[Tensor, "b k f"]
    mask: Bool[Tensor, "b k"]
    present: Bool[Tensor, " b"]
    scale: float = 1.0
    box: Box | None = None
    order: int = 30
    during: tuple[float, float] = (0.0, 1.0)

    def wants(self, site: Site) -> bool:
        """The attentions that there are blocks for."""
        return site.name in self.blocks.sites

    def __call__(
        self, call: AttentionCall, attend: Callable[[AttentionCall], Tensor]
    ) -> Float[Tensor, "r p c"]:
        """What comes out, and more in the rows of T."""
        out, rows = attend(call), call.rows.of("T")
        # A row without a token sees all of them: its softmax is a number, and what it finds is not taken.
        seen = self.mask | ~self.mask.any(dim=1, keepdim=True)
        bias = torch.zeros_like(seen, dtype=out.dtype).masked_fill(~seen, torch.finfo(out.dtype).min)
        found = self.blocks.blocks[_key(call.site.name)](
            call.states[rows], encoder_hidden_states=self.tokens.to(out), attention_mask=bias[:, None]
        )
        heard = self.present[:, None, None]
        if self.box is not None:
            heard = heard & within(self.box, call.grid).to(out.device)[None, :, None]
        found = torch.where(heard, found * self.scale, torch.zeros_like(found))
        return torch.cat([out[: rows.start], out[rows] + found, out[rows.stop :]])


def within(box: Box, grid: Size) -> Bool[Tensor, " p"]:
    """The cells of a grid of height and width that a box touches."""
    (x0, y0, x1, y1), (height, width) = box, grid
    ys, xs = torch.arange(height), torch.arange(width)
    rows = (ys < y1 * height) & (ys + 1 > y0 * height)
    columns = (xs < x1 * width) & (xs + 1 > x0 * width)
    return (rows[:, None] & columns).flatten()


def _block(wide: int, width: int) -> Attention:
    heads = math.gcd(wide, HEADS)
    block = Attention(
        query_dim=wide, cross_attention_dim=width, heads=heads, dim_head=wide // heads, bias=False,
        out_bias=False,
    )  # fmt: skip
    assert block.to_v is not None
    nn.init.zeros_(block.to_v.weight)
    return block


def _key(name: str) -> str:
    """A name that a ModuleDict takes."""
    return name.replace(".", "-")
