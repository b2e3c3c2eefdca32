"""Words alone, as Stable Diffusion and InstructPix2Pix read them.

A denoiser trained with it knows how to edit before the language model comes; the tiny base is made so, and
the same encoder then teaches the edit head what the denoiser understands.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel

from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.tokens import IGNORE
from mgie.types import Answer, Asked, Batch, Condition, Context


class ClipTextEncoder(AbstractInstructionEncoder):
    """Reads the words of the answer (the expressive instruction) and nothing else.

    The condition is as long as the text model has positions, or as many tokens as it is pooled to; the null
    is the encoding of the empty text.
    """

    def __init__(self, text_model: CLIPTextModel, *, silent_ids: tuple[int, ...], pooled: int | None = None):
        """`silent_ids` are tokens of the answer that are not words: visual tokens, end of the sequence.

        `pooled` keeps only the states at so many last positions, which have seen the whole text.
        """
        super().__init__()
        self.pooled = pooled
        self.text_model = text_model
        self.silent_ids = tuple(silent_ids)

    def encode(self, batch: Batch) -> Context:
        """The answer's words, encoded."""
        silent = torch.tensor(self.silent_ids, device=batch.labels.device)
        is_word = (batch.labels != IGNORE) & ~torch.isin(batch.labels, silent)
        words, mask = self._to_front(batch.input_ids, is_word)
        return self.read(words, mask)

    @torch.no_grad()
    def answer(
        self,
        asked: Asked,
        *,
        max_new_tokens: int,
        no_repeat_ngram_size: int,
        compat: Literal["default", "reference"] = "default",
    ) -> Answer:
        """The prompts themselves, encoded; it says nothing."""
        del max_new_tokens, no_repeat_ngram_size, compat
        rows = len(asked.input_ids)
        context = self.read(*self._to_front(asked.input_ids, asked.mask))
        return Answer(context=context, said=((),) * rows, forced=(False,) * rows)

    def read(self, words: Int[Tensor, "b q"], mask: Bool[Tensor, "b q"]) -> Context:
        """Encode rows of words (True in `mask`), each as long as the text model's positions."""
        end = self.text_model.config.eos_token_id
        assert isinstance(end, int)
        ids = torch.cat([words.masked_fill(~mask, end), torch.full_like(words[:1], end)])
        tokens: Float[Tensor, "b q e"] = self.text_model(input_ids=ids).last_hidden_state
        if self.pooled:
            tokens = tokens[:, -self.pooled :]
        return Context(condition=Condition(tokens=tokens[:-1]), null=Condition(tokens=tokens[-1:]))

    @property
    def condition_width(self) -> int:
        """That of the text model."""
        return self.text_model.config.hidden_size

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """One group."""
        return {"text_encoder": list(self.text_model.parameters())}

    def _to_front(
        self, ids: Int[Tensor, "b t"], is_word: Bool[Tensor, "b t"]
    ) -> tuple[Int[Tensor, "b q"], Bool[Tensor, "b q"]]:
        """Each row's words, moved to its front in order, cut or padded to the text model's positions."""
        length = self.text_model.config.max_position_embeddings
        most = length - (self.pooled or 1)
        order = torch.argsort((~is_word).to(torch.int8), dim=1, stable=True)[:, :most]
        words, mask = ids.gather(1, order), is_word.gather(1, order)
        missing = (0, length - words.shape[1])
        return nn.functional.pad(words, missing), nn.functional.pad(mask, missing)
