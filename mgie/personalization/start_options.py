"""What may be asked of a sampling that begins with learnt subjects."""

from dataclasses import dataclass
from typing import Annotated

from llava_patch.ranges import Range


@dataclass(frozen=True, kw_only=True)
class SubjectStart:
    """How a sampling begins that is to show two or more subjects."""

    gamma: Annotated[float, Range(ge=0, le=10)] = 0.1
    """How much of their cut-outs is in the noise; the more, the more they keep of their place and form. 0 is
    plain noise; what the authors take is not known. With Stable Diffusion's schedule a picture under noise of
    the last step is 0.07."""
    boxes: list[tuple[float, float, float, float]] | None = None
    """Where they go, in the order of their names in the words: x0, y0, x1, y1 in parts of width and height.
    None: side by side, by the seed."""
