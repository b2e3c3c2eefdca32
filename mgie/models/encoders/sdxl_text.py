"""Words alone, as Stable Diffusion XL reads them: by two text models, with a picture's size.

Podell et al., SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis, ICLR 2024,
section 2.
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.models.encoders.clip_text import framed, to_front
from mgie.tokens import IGNORE
from mgie.types import Answer, Asked, Batch, Condition, Context


class SdxlTextEncoder(AbstractInstructionEncoder):
    """The condition is what both text models make of the words before their last layer, side by side; its
    pooled state is the second's.
    """

    def __init__(
        self,
        first: CLIPTextModel,
        second: CLIPTextModelWithProjection,
        *,
        begin: int,
        end: int,
        pads: tuple[int, int],
        silent: bool = True,
    ):
        """Words stand between the tokens `begin` and `end`, before each model's own `pads`. `silent`: no
        words are zeros, as the published base was trained, instead of the encoding of the empty text."""
        super().__init__()
        self.text_model, self.text_model_2 = first, second
        self.begin, self.end, self.pads, self.silent = begin, end, pads, silent

    def encode(self, batch: Batch) -> Context:
        """The words of the answer."""
        is_word = (batch.labels != IGNORE) & (batch.labels != self.begin) & (batch.labels != self.end)
        return self.read(*self._to_front(batch.input_ids, is_word))

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
        """Encode rows of words (True in `mask`, at the front), one shorter than the models' positions."""
        words, mask = torch.cat([words, words[:1]]), torch.cat([mask, torch.zeros_like(mask[:1])])
        ids = [framed(words, mask, begin=self.begin, end=self.end, pad=pad) for pad in self.pads]
        first = self.text_model(input_ids=ids[0], output_hidden_states=True)
        second = self.text_model_2(input_ids=ids[1], output_hidden_states=True)
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled = second.text_embeds
        null = Condition(tokens=tokens[-1:], pooled=pooled[-1:])
        if self.silent:
            null = Condition(tokens=torch.zeros_like(tokens[-1:]), pooled=torch.zeros_like(pooled[-1:]))
        return Context(condition=Condition(tokens=tokens[:-1], pooled=pooled[:-1]), null=null)

    def at_size(self, context: Context, size: tuple[int, int]) -> Context:
        """Pictures of that size, not cropped, are asked for by all rows."""
        told = context.condition.tokens.new_tensor([[*size, 0, 0, *size]])

        def sized(condition: Condition) -> Condition:
            return replace(condition, sizes=told.expand(len(condition.tokens), -1))

        return replace(context, condition=sized(context.condition), null=sized(context.null))

    @property
    def condition_width(self) -> int:
        """That of both text models together."""
        return self.text_model.config.hidden_size + self.text_model_2.config.hidden_size

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """One group."""
        return {"text_encoder": [*self.text_model.parameters(), *self.text_model_2.parameters()]}

    def _to_front(
        self, ids: Int[Tensor, "b t"], is_word: Bool[Tensor, "b t"]
    ) -> tuple[Int[Tensor, "b q"], Bool[Tensor, "b q"]]:
        length = self.text_model.config.max_position_embeddings - 1
        return to_front(ids, is_word, length=length, most=length - 1)
