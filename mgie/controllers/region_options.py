"""How an edit may be kept inside its mask: options, without what they need of libraries."""

from dataclasses import dataclass
from typing import Annotated, Literal

from llava_patch.ranges import Range
from mgie.ranges import Share

Preserve = Literal["exact", "soft", "none"]
"""How what is outside the mask is kept. Exact: to the bit. Soft: the first half of the sampling holds to it.
None: the mask only directs."""
Length = Annotated[float, Range(ge=0, le=1000)]
"""In pixels of a square of 512 x 512; at other sizes it grows with them."""
SIDE = 512


@dataclass(frozen=True, kw_only=True)
class RegionOptions:
    """How an edit is kept inside its mask."""

    grow: Length = 0.0
    """Pixels by which the mask is made wider."""
    feather: Length = 8.0
    """Width of the ring outside the mask in which edit and photo are mixed; 0 makes its edge hard."""
    seam: Length = 5.0
    """Blur of the edit at the mask's edge, as the deviation of a Gaussian; 0 for none."""
    seam_width: Length = 10.0
    """How far inside that blur fades, as the deviation of a Gaussian."""
    features: bool = False
    """Whether the denoiser's deep features outside are the photo's (progressive feature blending)."""
    strength: Share = 1.0
    """How much of the photo's features comes in."""
    attention: bool = False
    """Whether words are heard only inside (cross-attention masking)."""
    until: Share = 1.0
    """The part of the sampling, from its start, in which features and attention are held so."""

    def scaled(self, length: float, size: tuple[int, int]) -> float:
        """A length in the pixels of a picture of this width and height, or height and width."""
        return length * (size[0] * size[1]) ** 0.5 / SIDE
