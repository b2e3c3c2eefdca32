"""How the look of a photo may be kept: options, without what they need of libraries."""

from dataclasses import dataclass
from typing import Annotated

from llava_patch.ranges import Range
from mgie.ranges import Share


@dataclass(frozen=True, kw_only=True)
class IdentityOptions:
    """How strongly, and of which part of a photo, the look is kept."""

    scale: Annotated[float, Range(ge=0, le=10)] = 1.0
    """What the tokens add counts so much; 0 leaves every bit as it is without them."""
    box: tuple[Share, Share, Share, Share] | None = None
    """The part that is looked at, a face for example, and where it is heard; None: all of the photo."""


@dataclass(frozen=True, kw_only=True)
class IdentityTraining:
    """What the group `identity` of a run trains: tokens of a photo's look, and attention to them, beside a
    denoiser that stays as it is."""

    drop: Share = 0.05
    """Share of the samples that learn without them; besides, who is told no words is told no look."""
