"""Greedy answers by transformers' `generate`, then their states in one forward."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, LogitsProcessor
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from llava_patch.errors import DataError

Ending = Literal["eos", "stop", "budget"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The conversations after the model has spoken, one entry per row; nothing is padded."""

    ids: tuple[Int[Tensor, " _"], ...]
    """Prompt and answer; each row has its own length."""
    prompts: tuple[Float[Tensor, "_ d"], ...]
    """The prompts as they were read: embeddings, with the features of their pictures."""
    endings: tuple[Ending, ...]
    """Why the row stopped speaking: </s>, a stop token, or no room: see `generate`."""

    def new_ids(self, row: int) -> list[int]:
        """What was added to the prompt of one row."""
        return self.ids[row][len(self.prompts[row]) :].tolist()


def generate(
    model: LlamaForCausalLM,
    input_ids: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    embeddings: Float[Tensor, "b t d"],
    *,
    max_new_tokens: int,
    no_repeat_ngram_size: int,
    eos_id: int,
    stop: tuple[int, ...],
    then: tuple[int, ...],
) -> Generated:
    """Continue prompts, padded on either side, whose embeddings are given; each row as it would be alone.

    A row speaks until it says </s> (no id if negative) or one of `stop`, or has said `max_new_tokens`, or all
    that fits with `then` into the positions that the model was made for. With `then`, the token that ended
    it (</s> or a stop token) is replaced by the tokens of `then`, whether or not the model would have said
    them. `no_repeat_ngram_size` counts over prompt and answer; 0 allows repetition. Raises DataError.
    """
    if max_new_tokens < 1:
        raise DataError(f"max_new_tokens is {max_new_tokens}, expected 1 or more.")
    prompts, read = _rows(input_ids, mask), _rows(embeddings, mask)
    lengths = [len(prompt) for prompt in prompts]
    if not all(lengths):
        raise DataError(f"row {lengths.index(0)} of the batch has no tokens, expected a prompt in every row.")
    budgets = [min(max_new_tokens, _room_after(length, len(then), model)) for length in lengths]
    ends = [token for token in (eos_id, *stop) if token >= 0]
    left: Any = {"batch_first": True, "padding_side": "left"}
    real = pad_sequence([torch.ones_like(ids).bool() for ids in prompts], **left)
    speaker: Any = model
    spoken = speaker.generate(
        input_ids=pad_sequence(prompts, **left),
        inputs_embeds=pad_sequence(read, **left),
        attention_mask=real,
        do_sample=False,
        max_new_tokens=max(budgets),
        eos_token_id=ends or None,
        pad_token_id=0,
        synced_gpus=False,  # whoever speaks has the whole model, whatever the library finds shared out
        logits_processor=[_NoRepeat(no_repeat_ngram_size, real)] if no_repeat_ngram_size else [],
    )
    ids: list[Tensor] = []
    endings: list[Ending] = []
    for prompt, row, budget in zip(prompts, spoken[:, real.shape[1] :].tolist(), budgets):
        count = next((place + 1 for place, token in enumerate(row[:budget]) if token in ends), None)
        words = row[: count or budget]
        endings.append("budget" if count is None else "eos" if words[-1] == eos_id else "stop")
        if then and count is not None:
            words.pop()
        ids.append(torch.cat([prompt, prompt.new_tensor([*words, *then])]))
    return Generated(ids=tuple(ids), prompts=tuple(read), endings=tuple(endings))


def read(model: LlamaForCausalLM, generated: Generated) -> tuple[Float[Tensor, "_ d"], ...]:
    """Last states of all positions but each row's last one: states[i] predicts ids[i + 1]."""
    # The answers' tokens are words, also where one of them stands for a part of a picture in a prompt.
    rows = [
        torch.cat([prompt, model.model.embed_tokens(ids[len(prompt) : -1])])
        for prompt, ids in zip(generated.prompts, generated.ids)
    ]
    # Padded on the right: no token looks that way, and each has its own place.
    states = model.model(inputs_embeds=pad_sequence(rows, batch_first=True), use_cache=False)
    return tuple(read[: len(row)] for read, row in zip(states.last_hidden_state, rows))


def _rows(values: Tensor, mask: Bool[Tensor, "b t"]) -> list[Tensor]:
    """Each row without its padding."""
    return [row[keep] for row, keep in zip(values, mask.bool())]


def _room_after(prompt: int, closing: int, model: LlamaForCausalLM) -> int:
    """How many tokens may be said between so many. Raises DataError if there is no room for any."""
    config = model.config
    # Linear and dynamic stretching state the length before it, beside the factor; others the one after.
    rope = config.rope_parameters or {}
    factor = 1 if "original_max_position_embeddings" in rope else rope.get("factor") or 1
    positions = int(config.max_position_embeddings * factor)
    if prompt + closing >= positions:
        raise DataError(
            f"a prompt has {prompt} tokens, but the language model reads {positions} in all, of which "
            f"the answer needs {closing + 1} at least; shorten the instruction."
        )
    return positions - prompt - closing


class _NoRepeat(LogitsProcessor):
    """The library's rule, row by row over its own tokens: padding is nothing that was said."""

    def __init__(self, size: int, real: Bool[Tensor, "b t"]) -> None:
        self.rule = NoRepeatNGramLogitsProcessor(size)
        self.padding = (~real).sum(1).tolist()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        own: list[Any] = [ids[None, count:] for ids, count in zip(input_ids, self.padding)]
        return torch.cat([self.rule(ids, scores[[row]]) for row, ids in enumerate(own)])
