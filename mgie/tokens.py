"""The visual tokens [IMG0]..[IMGk-1]: names, and where their states are read.

The state read for a token is the one that *predicts* it, one place to its left.
This file is the only one that knows.
"""

from jaxtyping import Int
from torch import Tensor

IGNORE = -100
"""Label of a position where the model is not asked to speak."""


def visual_tokens(count: int) -> tuple[str, ...]:
    """Names of the visual tokens, in order: ("[IMG0]", "[IMG1]", ...)."""
    return tuple(f"[IMG{index}]" for index in range(count))


def with_visual_tokens(expressive: str, count: int) -> str:
    """The model's whole answer: the expressive instruction, then the visual tokens, separated by spaces."""
    return " ".join([expressive, *visual_tokens(count)]) if expressive else " ".join(visual_tokens(count))


def begin(read_at: Int[Tensor, "b k"]) -> Int[Tensor, " b"]:
    """Where the first visual token of each row stands, of the positions where the tokens are read."""
    return read_at[:, 0] + 1


def read_positions(first: int, count: int) -> range:
    """Where the states of `count` visual tokens are read, the first of which stands at index `first`."""
    return range(first - 1, first - 1 + count)
