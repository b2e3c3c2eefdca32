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
from mgie.models.encoders.phrases import Phrases
from mgie.tokens import IGNORE
from mgie.types import Answer, Asked, Batch, Condition, Context


class ClipTextEncoder(AbstractInstructionEncoder):
    """Reads the words of the answer (the expressive instruction) and nothing else.

    The condition is as long as the text model has positions, or as many tokens as it is pooled to; the null
    is the encoding of the empty text.
    """

    def __init__(
        self,
        text_model: CLIPTextModel,
        *,
        silent_ids: tuple[int, ...],
        pooled: int | None = None,
        begin: int | None = None,
        end: int | None = None,
        pad: int | None = None,
    ):
        """`silent_ids` are tokens of the answer that are not words: visual tokens, end of the sequence.

        `pooled` keeps only the states at so many last positions, which have seen the whole text. Words stand
        between the tokens `begin` (None: none) and `end` (None: the text model's own), before `pad` (None:
        that again).
        """
        super().__init__()
        end = text_model.config.eos_token_id if end is None else end  # pyright: ignore - no list
        assert isinstance(end, int)
        self.begin, self.end, self.pad = begin, end, end if pad is None else pad
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
        """The prompts themselves, encoded, and of each the state at the token behind its last word, which
        has seen it all; it says nothing."""
        del max_new_tokens, no_repeat_ngram_size, compat
        rows = len(asked.input_ids)
        words, mask = self._to_front(asked.input_ids, asked.mask)
        context = self.read(words, mask)
        pooled = None if self.pooled else self._last(context.condition.tokens, mask)
        return Answer(context=context, said=((),) * rows, forced=(False,) * rows, pooled=pooled)

    def phrases(self, ids: Int[Tensor, "r l"]) -> Phrases:
        """Rows of words, and behind the last one -1."""
        words, mask = self._to_front(ids.clamp(min=0), ids >= 0)
        tokens, described = self.read(words, mask).condition.tokens, None
        if not self.pooled:
            places = torch.arange(tokens.shape[1], device=mask.device) - int(self.begin is not None)
            described = (places >= 0) & (places <= mask.sum(1, keepdim=True))
        return Phrases(
            condition=Condition(tokens=tokens, pooled=self._last(tokens, mask)), described=described
        )

    def _last(self, tokens: Float[Tensor, "r q e"], mask: Bool[Tensor, "r _"]) -> Float[Tensor, "r e"]:
        """The state that has seen all words: at the token behind them, or the last of those that are kept."""
        if self.pooled:
            return tokens[:, -1]
        last = mask.sum(1) + (self.begin is not None)
        return tokens[torch.arange(len(tokens), device=last.device), last]

    def read(self, words: Int[Tensor, "b q"], mask: Bool[Tensor, "b q"]) -> Context:
        """Encode rows of words (True in `mask`, at the front), as long as the text model's positions.

        With a token to begin with, one shorter.
        """
        nothing = torch.zeros_like(mask[:1])
        tokens = self._states(torch.cat([words, words[:1]]), torch.cat([mask, nothing]))
        if self.pooled:
            tokens = tokens[:, -self.pooled :]
        return Context(condition=Condition(tokens=tokens[:-1]), null=Condition(tokens=tokens[-1:]))

    def _states(self, words: Int[Tensor, "b q"], mask: Bool[Tensor, "b q"]) -> Float[Tensor, "b _ e"]:
        """The text model's states of words between the tokens that begin, end and fill."""
        ids = framed(words, mask, begin=self.begin, end=self.end, pad=self.pad)
        return self.text_model(input_ids=ids).last_hidden_state

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
        length = self.text_model.config.max_position_embeddings - (self.begin is not None)
        return to_front(ids, is_word, length=length, most=length - (self.pooled or 1))


def to_front(
    ids: Int[Tensor, "b t"], is_word: Bool[Tensor, "b t"], *, length: int, most: int
) -> tuple[Int[Tensor, "b q"], Bool[Tensor, "b q"]]:
    """Each row's first `most` words, moved to its front in order; rows are cut or padded to `length`."""
    order = torch.argsort((~is_word).to(torch.int8), dim=1, stable=True)[:, :most]
    words, mask = ids.gather(1, order), is_word.gather(1, order)
    missing = (0, length - words.shape[1])
    return nn.functional.pad(words, missing), nn.functional.pad(mask, missing)


def framed(
    words: Int[Tensor, "b q"], mask: Bool[Tensor, "b q"], *, begin: int | None, end: int, pad: int
) -> Int[Tensor, "b _"]:
    """Rows of words (True in `mask`, at the front) between the tokens that begin, end and fill."""
    places = torch.arange(words.shape[1], device=words.device)
    behind = torch.where(places == mask.sum(1, keepdim=True), end, pad)
    ids = torch.where(mask, words, behind)
    return ids if begin is None else torch.cat([torch.full_like(ids[:, :1], begin), ids], dim=1)
