"""The look of a photo, or of a part of it, as tokens that the denoiser hears in every layer.

xMGIE's identity embeddings in a form that can be trained: its paper joins them to the feature maps, whose
widths no pretrained UNet has then. Here a frozen tower's view becomes tokens for attention beside the words'
(docs/why.md).
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mgie.controllers.beside import BesideBlocks
from mgie.controllers.identity_options import IdentityOptions
from mgie.errors import WeightsError
from mgie.types import ControlPlan

TOKENS = 4
"""Tokens of a look."""


class IdentityBlocks(nn.Module):
    """Tokens of what a vision tower sees, and the attention to them. Untrained it adds nothing."""

    def __init__(self, *, vision: int, width: int, sites: Mapping[str, int]):
        """Widths of the tower's features and of the tokens; the denoiser's attentions with theirs."""
        super().__init__()
        self.look = nn.Linear(vision, TOKENS * width)
        self.norm = nn.LayerNorm(width)
        self.beside = BesideBlocks(sites, width=width)

    @property
    def sizes(self) -> dict[str, object]:
        """What it is made with, plain data for JSON."""
        return {
            "vision": self.look.in_features, "width": self.beside.width, "sites": self.beside.sites,
        }  # fmt: skip

    @property
    def untrained(self) -> bool:
        """Whether it would change nothing."""
        values = [value for name, value in self.beside.named_parameters() if ".to_v." in name]
        return not any(bool(value.any()) for value in values)

    def check(self, attentions: Mapping[str, tuple[int, int]], *, vision: int) -> None:
        """Hold it to a denoiser's attentions and the width of a tower. Raises WeightsError."""
        there = {name: widths[0] for name, widths in attentions.items()}
        if self.beside.sites != there or self.look.in_features != vision:
            raise WeightsError(
                f"the identity tokens are for {len(self.beside.sites)} attentions and a tower of width "
                f"{self.look.in_features}, and the editor has {len(there)}, or of other widths, and a tower "
                f"of width {vision}: use parts that were trained together."
            )

    def plan(
        self,
        seen: Float[Tensor, "b dv"],
        there: Bool[Tensor, " b"],
        options: IdentityOptions | None = None,
    ) -> ControlPlan:
        """Hear what was `seen` of those whose look is `there`; scale 0 is no plan."""
        options = options or IdentityOptions()
        if not options.scale:
            return ControlPlan()
        weight = self.look.weight
        tokens = self.norm(rearrange(self.look(seen.to(weight)), "b (k f) -> b k f", k=TOKENS))
        mask = there[:, None].expand(-1, TOKENS)
        return self.beside.plan(tokens, mask, scale=options.scale, box=options.box)


def seen_of(features: Float[Tensor, "m p dv"]) -> Float[Tensor, "m dv"]:
    """What a tower sees of each picture in one: the mean of the patches that the language model reads, which
    stored features have, too; a tower's pooled state they have not."""
    return features.float().mean(dim=1)


def of_rows(seen: Float[Tensor, "m dv"], rows: Bool[Tensor, " b"]) -> Float[Tensor, "b dv"]:
    """The same for all samples, of which these have a picture; zeros for the others."""
    place = (rows.long().cumsum(0) - 1).clamp(min=0)
    if not len(seen):
        return seen.new_zeros(len(rows), seen.shape[-1])
    return torch.where(rows[:, None], seen[place], torch.zeros_like(seen[:1]))
