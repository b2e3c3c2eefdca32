"""How regions with phrases may be painted: options, without what they need of libraries."""

from dataclasses import dataclass
from typing import Literal

from mgie.ranges import Share


@dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """How regions with phrases are painted."""

    until: Share = 0.5
    """The part of the sampling, from its start, in which trained blocks act, where the editor has some."""
    fuse_until: Share = 1.0
    """The same of the fuser, which needs no weights: in all layers where no block acts."""
    around: Literal["words", "nothing"] = "words"
    """What is heard outside the regions: the words for the whole picture, or nothing."""
    visible: bool = True
    """Whether a region that is thinner than a layer's grid has one cell there; without, it has none."""
