"""As many states as a painter hears, out of as many as a prompt has.

Learned queries attend to the states (set transformers, Lee et al. 2019, section 3.2, pooling by attention).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class StatePooling(nn.Module):
    """A few layers of queries that look at a text encoder's states, and at each other; and what is said when
    nothing is."""

    def __init__(self, width: int, told: int, *, queries: int, layers: int = 2, heads: int = 4):
        """`width` of the states, `told` of the condition, which has `queries` tokens."""
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width) * width**-0.5)
        layer = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(width))
        self.out = nn.Linear(width, told)
        self.null = nn.Parameter(torch.zeros(1, queries, told))

    @property
    def told(self) -> int:
        """Width of the condition."""
        return self.out.out_features

    @property
    def sizes(self) -> dict[str, int]:
        """What it is made with, plain data for JSON."""
        return {
            "told": self.told, "queries": self.queries.shape[1], "layers": len(self.layers.layers),
            "heads": self.layers.layers[0].self_attn.num_heads,  # pyright: ignore - a decoder's layer
        }  # fmt: skip

    def forward(self, states: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b q e"]:
        """The condition, of states that count where `mask` is True."""
        queries = self.queries.expand(len(states), -1, -1)
        return self.out(self.layers(queries, states, memory_key_padding_mask=~mask))
