"""The edit head: states of the visual tokens -> the condition of the denoiser.

MGIE, Fu et al. 2024, section 3.2.

Parameter names are the published ones: `query`, `llm2hid`, `mapper` (torch.nn.Transformer), `hid2feat`.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llava_patch.ranges import Range
from mgie.errors import ConfigError

WIDEST, MOST_HEADS = 2**20, 1024
Width = Annotated[int, Range(ge=1, le=WIDEST)]


@dataclass(frozen=True, kw_only=True)
class EditHeadConfig:
    """Sizes of the head."""

    visual_tokens: Annotated[int, Range(ge=1, le=1024)]
    """How many visual tokens the language model emits."""
    width: Width
    """Width inside the head, a multiple of `heads`."""
    heads: Annotated[int, Range(ge=1, le=MOST_HEADS)]
    """Attention heads."""
    layers: Annotated[int, Range(ge=1, le=256)]
    """Encoder layers, and as many decoder layers."""
    feedforward: Width
    """Width of the feed-forward layers."""
    queries: Annotated[int, Range(ge=1, le=65536)]
    """Length of the condition."""
    initializer_range: Annotated[float, Range(gt=0, le=1)] | None = None
    """Deviation of a new head's linear layers (biases zero); the reference's is 0.02. None: torch's own."""

    def __post_init__(self) -> None:
        """Each head has an equal part of the width. Raises ConfigError."""
        # What is out of its range is told by who holds this, once it is made.
        if 0 < self.heads <= MOST_HEADS and self.width <= WIDEST and self.width % self.heads:
            raise ConfigError(
                f"edit_head.width={self.width} is no multiple of edit_head.heads={self.heads}: each head has "
                "an equal part of the width; change one of them."
            )


class EditHead(nn.Module):
    """A small encoder-decoder that answers `queries` learned questions from the visual tokens."""

    own_embeddings: Tensor | None

    def __init__(self, config: EditHeadConfig, *, d_in: int, e_out: int):
        super().__init__()
        self.config = config
        self.d_in = d_in
        self.e_out = e_out
        # Drawn in double, then rounded: drawn in single they have other last digits on other processors.
        kept, wide = torch.get_default_dtype(), torch.float64
        self.llm2hid = nn.Linear(d_in, config.width, dtype=wide)
        self.query = nn.Parameter(torch.randn(1, config.queries, config.width, dtype=wide))
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.feedforward,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
            dtype=wide,
        )
        # Nested tensors are impossible with norm_first; the transformer's own encoder would ask and warn.
        encoder = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width, dtype=wide), enable_nested_tensor=False
        )
        self.mapper = nn.Transformer(
            config.width,
            config.heads,
            num_decoder_layers=config.layers,
            dim_feedforward=config.feedforward,
            dropout=0.0,
            custom_encoder=encoder,
            batch_first=True,
            norm_first=True,
            dtype=wide,
        )
        self.hid2feat = nn.Linear(config.width, e_out, dtype=wide)
        # Rows that a published head brings along, where its language model's table has others.
        self.register_buffer("own_embeddings", None)
        if config.initializer_range is not None:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=config.initializer_range)
                    nn.init.zeros_(module.bias)
        self.to(kept)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.query.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its parameters."""
        return self.query.dtype

    def forward(
        self, states: Float[Tensor, "b k d"], embeddings: Float[Tensor, "k d"]
    ) -> Float[Tensor, "b q e"]:
        """Condition from the visual tokens' states and `embeddings`, their rows of the input table."""
        hidden = self.llm2hid(states + embeddings)
        answers = self.mapper(hidden, self.query.expand(len(hidden), -1, -1))
        return self.hid2feat(answers)
