"""The look of photos as users ask for it, and what it means for the painting of a call."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from llava_patch.ranges import check_ranges
from mgie.controllers.identity import IdentityBlocks
from mgie.controllers.identity_options import IdentityOptions
from mgie.data.grounding import check_box
from mgie.errors import ConfigError
from mgie.types import Box, ControlPlan


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was seen of each photo of a call."""

    blocks: IdentityBlocks
    seen: Float[Tensor, "m dv"]
    options: IdentityOptions

    def plan(self, rows: Sequence[int]) -> ControlPlan:
        """The looks of some of the photos."""
        seen = self.seen[list(rows)]
        return self.blocks.plan(
            seen, torch.ones(len(rows), dtype=torch.bool, device=seen.device), self.options
        )


def known_by(
    blocks: IdentityBlocks | None, options: IdentityOptions, *, new: bool, compat: str
) -> IdentityBlocks:
    """What hears the looks. Raises ConfigError where nothing does, and DataError for a box that is none."""
    check_ranges(options)
    if blocks is None or blocks.untrained:
        raise ConfigError(
            "identity keeps a photo's look, and this editor has not learnt it, so nothing would change: "
            "train the group identity (--train.groups [identity]), or leave it out."
        )
    if new or compat == "reference":
        told = "no photo is given" if new else 'compat="reference" edits as the original did, which has none'
        raise ConfigError(f"identity keeps a photo's look, and {told}: leave one of them out.")
    if options.box is not None:
        check_box(options.box, "identity.box")
    return blocks


def cut(photo: Image.Image, box: Box | None) -> Image.Image:
    """The part of a photo inside a box, at least a pixel; all of it without one."""
    if box is None:
        return photo
    (width, height), (x0, y0, x1, y1) = photo.size, box
    left, top = min(int(x0 * width), width - 1), min(int(y0 * height), height - 1)
    return photo.crop((left, top, max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)))
