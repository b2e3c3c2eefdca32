"""Greedy answers with the last layer's states, for rows of different lengths."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from llava_patch.errors import DataError

Ending = Literal["eos", "stop", "budget"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The conversations after the model has spoken, one entry per row; nothing is padded."""

    ids: tuple[Int[Tensor, " _"], ...]
    """Prompt and answer; each row has its own length."""
    states: tuple[Float[Tensor, "_ d"], ...]
    """Last states of all positions but the last one, which nobody has read: states[i] predicts ids[i + 1]."""
    prompts: tuple[int, ...]
    """How many of the ids are the prompt."""
    endings: tuple[Ending, ...]
    """Why the row stopped speaking: </s>, a stop token, or no room: see GreedyDecoder."""

    def new_ids(self, row: int) -> list[int]:
        """What was added to the prompt of one row."""
        return self.ids[row][self.prompts[row] :].tolist()


@dataclass(frozen=True, kw_only=True)
class _Room:
    """Growing slots of the cache: which are real, and where each row stands."""

    mask: Bool[Tensor, "b t"]
    length: Int[Tensor, " b"]

    def with_slots(self, real: Bool[Tensor, "b n"]) -> "_Room":
        return _Room(mask=torch.cat([self.mask, real], dim=1), length=self.length + real.sum(1))


class GreedyDecoder:
    """A greedy decoder over one language model.

    A row speaks until it says </s> or one of `stop`, or has said `max_new_tokens`, or all that fits with
    `then` into the positions that the model was made for. With `then`, the token that ended it (</s> or a
    stop token) is replaced by the tokens of `then`, which are read in one forward: the states that predict
    each of them are there whether or not the model would have said them.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        max_new_tokens: int,
        no_repeat_ngram_size: int,
        eos_id: int,
        stop: tuple[int, ...],
        then: tuple[int, ...],
    ) -> None:
        """`no_repeat_ngram_size` counts over prompt and answer; 0 allows repetition."""
        if max_new_tokens < 1:
            raise DataError(f"max_new_tokens is {max_new_tokens}, expected 1 or more.")
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.no_repeat = NoRepeatNGramLogitsProcessor(no_repeat_ngram_size) if no_repeat_ngram_size else None
        self.eos_id = eos_id
        self.stop = stop
        self.then = then

    def speak(
        self, input_ids: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"], embeddings: Float[Tensor, "b t d"]
    ) -> Generated:
        """Continue prompts, padded on either side, whose embeddings are given."""
        rows = [ids[keep].tolist() for ids, keep in zip(input_ids, mask)]
        if not all(rows):
            raise DataError(
                f"row {rows.index([])} of the batch has no tokens, expected a prompt in every row."
            )
        prompts = tuple(len(row) for row in rows)
        budgets = [min(self.max_new_tokens, self._room_after(length)) for length in prompts]
        endings: list[Ending | None] = [None] * len(rows)

        # Read the prompts.
        mask = mask.bool()
        room = _Room(mask=mask, length=mask.sum(1))
        read, cache = self._read(embeddings, room, mask, cache=None)
        states = [read[row][keep] for row, keep in enumerate(mask)]
        collected = [[rows_states] for rows_states in states]
        last = torch.stack([row_states[-1] for row_states in states])

        # Speak, one token a step; rows that are done wait on masked slots.
        for step in range(max(budgets)):
            said = self._choose(last, rows)
            for row, token in enumerate(said):
                if endings[row] is None:
                    rows[row].append(token)
                    endings[row] = self._ending(token, last=step + 1 == budgets[row])
            speaking = [ending is None for ending in endings]
            if not any(speaking):
                break
            real = torch.tensor(speaking, device=mask.device)[:, None]
            room = room.with_slots(real)
            tokens = torch.tensor(said, device=mask.device)[:, None]
            read, cache = self._read(self.model.model.embed_tokens(tokens), room, real, cache)
            last = read[:, -1]
            for row in range(len(rows)):
                if speaking[row]:
                    collected[row].append(read[row])

        if self.then:
            self._append(rows, collected, endings, room, cache)
        return Generated(
            ids=tuple(torch.tensor(row, device=input_ids.device) for row in rows),
            states=tuple(torch.cat(parts) for parts in collected),
            prompts=prompts,
            endings=tuple(ending or "budget" for ending in endings),
        )

    def _choose(self, last: Float[Tensor, "b d"], rows: list[list[int]]) -> list[int]:
        scores = self.model.lm_head(last).float()
        if self.no_repeat is not None:
            # Row by row over its own tokens: padding must not count as something that was said.
            so_far = [cast(torch.LongTensor, torch.tensor([row], device=scores.device)) for row in rows]
            scores = torch.cat([self.no_repeat(ids, scores[[row]]) for row, ids in enumerate(so_far)])
        return scores.argmax(-1).tolist()

    def _room_after(self, prompt: int) -> int:
        """How many tokens may be said after so many. Raises DataError if there is no room for any."""
        config, closing = self.model.config, len(self.then)
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

    def _ending(self, token: int, *, last: bool) -> Ending | None:
        if token == self.eos_id:
            return "eos"
        if token in self.stop:
            return "stop"
        return "budget" if last else None

    def _read(
        self, embeddings: Tensor, room: _Room, real: Bool[Tensor, "b n"], cache
    ) -> tuple[Tensor, object]:
        """States of new slots; `room` already holds them."""
        before = room.length[:, None] - real.sum(1, keepdim=True)
        places = (before + real.cumsum(1) - 1).clamp(min=0)
        out = self.model.model(
            inputs_embeds=embeddings,
            attention_mask=room.mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
        return out.last_hidden_state, out.past_key_values

    def _append(
        self, rows: list[list[int]], collected: list[list[Tensor]], endings: list, room: _Room, cache
    ) -> None:
        """Put `then` after each answer and read what has no states yet, in one forward for all rows."""
        unread: list[tuple[int, ...]] = []
        for row, ending in enumerate(endings):
            if ending in ("eos", "stop"):
                rows[row].pop()
            spoken = sum(len(part) for part in collected[row])
            rows[row].extend(self.then)
            unread.append((*rows[row][spoken:-1],))
        device = room.mask.device
        width = max(len(ids) for ids in unread)
        if width == 0:
            return
        tokens = torch.tensor([ids + self.then[:1] * (width - len(ids)) for ids in unread], device=device)
        real = torch.tensor([[place < len(ids) for place in range(width)] for ids in unread], device=device)
        read, _ = self._read(self.model.model.embed_tokens(tokens), room.with_slots(real), real, cache)
        for row, ids in enumerate(unread):
            collected[row].append(read[row, : len(ids)])
