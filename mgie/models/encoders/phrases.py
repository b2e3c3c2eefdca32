"""Who reads the phrases of regions for a layout's blocks: a text encoder, with its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from mgie.errors import DataError
from mgie.types import Condition


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """What a text encoder made of phrases, row by row. Without slots: ZeRO 3 looks for tensors in what a
    module returns."""

    condition: Condition
    """Its tokens, and `pooled`, the state that has seen all of a phrase."""
    described: Bool[Tensor, "r q"] | None = None
    """True where a token is a word of the phrase, or the one that ends it. None: every token has seen all."""


class PhraseReader(nn.Module):
    """A text encoder beside an editor whose own encoder is none; or that encoder itself."""

    def __init__(self, encoder: Any, tokenizer: Any):
        """`encoder` is a ClipTextEncoder; `tokenizer` one of transformers', or LLaVA's."""
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer

    @property
    def most(self) -> int:
        """How many words it reads."""
        places = self.encoder.text_model.config.max_position_embeddings
        return places - (self.encoder.begin is not None) - (self.encoder.pooled or 1)

    def ids(self, phrase: str) -> list[int]:
        """The words of a phrase. Raises DataError for more than are read."""
        plain = {"add_special_tokens": False} if hasattr(self.tokenizer, "bos_token_id") else {"bos": False}
        ids = self.tokenizer.encode(phrase, **plain)
        if len(ids) > self.most:
            raise DataError(
                f"the phrase {phrase[:60]!r} has {len(ids)} tokens, and the text encoder reads {self.most}: "
                "say it in fewer words."
            )
        return ids

    def tokens(self, phrases: Sequence[str]) -> Int[Tensor, "r l"]:
        """The words of phrases side by side, where the encoder is. Raises DataError."""
        told = [self.ids(phrase) for phrase in phrases]
        return side_by_side(told).to(self.encoder.text_model.device)

    def forward(self, ids: Int[Tensor, "r l"]) -> Phrases:
        """What the encoder makes of them."""
        return self.encoder.phrases(ids)


def side_by_side(rows: Sequence[Sequence[int]]) -> Int[Tensor, "r l"]:
    """Rows of words, with -1 behind the last of each."""
    longest = max(map(len, rows), default=0)
    padded = [[*row, *[-1] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long).reshape(len(rows), longest)
