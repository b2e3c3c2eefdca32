"""Learning to look at what is spoken of: a head is told which thing each word is about.

Its words alone teach that late: of a model that knows what lies on every patch, they still ask to find out
that the form it names is to be read off the thing that the instruction means (docs/log.md).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava_patch.model import Llava
from llava_patch.tokenizer import LlavaTokenizer
from mgie.tokens import IGNORE
from mgie.toy.lessons import Lessons
from mgie.toy.seeing import covered
from mgie.toy.tasks import LanguageTask
from mgie.toy.things import PLACES, Thing
from mgie.toy.world import Scene
from mgie.types import Batch, Draws, EditPair, Example, Losses, Term

LAYER = 2
"""Which layer looks; the one after it says what was seen."""
_PLACE = re.compile(rf"\bat the ({'|'.join(sorted(PLACES, key=len, reverse=True))})\b")
_NEXT = re.compile(r" and (?=the )|, ")


def spoken_of(said: str, scene: Scene) -> Iterator[tuple[int, int, Thing]]:
    """Where in the words something is said of one of the scene's things: first character, the one behind the
    last, the thing."""
    there, start = {thing.place: thing for thing in scene.things}, 0
    for end in [*(found.start() for found in _NEXT.finditer(said)), len(said)]:
        named = _PLACE.search(said, start, end)
        if named and (thing := there.get(named[1])):
            yield start, end, thing
        start = end


class PointedLessons(Lessons):
    """Lessons, and of each word the patches of what it is about."""

    def __call__(self, pair: EditPair, rng: object = None, features: object = None) -> Example:
        """One pair; its extra `about` (tokens, patches) is of the token that is said next."""
        example = super().__call__(pair, rng, features)
        assert self.processor is not None
        about = torch.zeros(len(example.input_ids), self.processor.patches, dtype=torch.bool)
        if "before" in pair.meta:
            scene, said = Scene.from_json(pair.meta["before"]), self.words(pair)[1]
            first = int((example.labels != IGNORE).nonzero()[0])
            ends = _ends(self.processor.tokenizer, example.labels[first:].tolist())
            side = round(self.processor.patches**0.5)
            again = len(pair.expressive) + 1 if said == f"{pair.expressive} {pair.expressive}" else 0
            once = said[: again - 1] if again else said
            for shift in sorted({0, again}):
                for start, end, thing in spoken_of(once, scene):
                    for at, last in enumerate(ends):
                        if start + shift < last <= end + shift:
                            about[first + at - 1] = covered(thing, side).flatten()
        return replace(example, extras={"about": about})

    def together(self, extras: Sequence[Mapping[str, Tensor]], mask: Any) -> dict[str, Tensor]:
        """Rows as long as the longest."""
        about = torch.zeros(*mask.shape, extras[0]["about"].shape[1], dtype=torch.bool)
        for row, each in zip(about, extras, strict=True):
            row[: len(each["about"])] = each["about"]
        return {"about": about}


def _ends(tokenizer: LlavaTokenizer, ids: list[int]) -> list[int]:
    """How many characters have been said with each token."""
    return [len(tokenizer.decode(ids[: count + 1])) for count in range(len(ids))]


class PointTask(LanguageTask):
    """Learn to say, and where to look meanwhile."""

    weights: Mapping[str, float] = {"ce": 1.0, "point": 0.3}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Label tokens, and those that are about a thing (where none is, nothing is divided)."""
        pointed = int(batch.extras["about"].any(-1).sum())
        return {**super().counts(batch), "point": max(pointed, 1)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Cross-entropy of the words, and of whether a head looks at the patches of what they are about."""
        looked: list[Tensor] = []
        layer = self.editor.language_model.model.layers[LAYER].self_attn
        watching = layer.register_forward_pre_hook(
            lambda module, _, given: looked.append(
                first_head(module, given["hidden_states"], given["position_embeddings"])
            ),
            with_kwargs=True,
        )
        try:
            losses = super().forward(batch, draws)
        finally:
            watching.remove()
        missed = astray(self.editor, looked[0], batch)
        return {**losses, "point": Term(sum=missed, count=self.counts(batch)["point"])}


def first_head(
    attn: Any, states: Float[Tensor, "b t d"], rotation: tuple[Tensor, Tensor]
) -> Float[Tensor, "b t t"]:
    """Logarithms of what the first head of an attention of LLaMA looks at."""
    width = attn.head_dim
    asked, keys = (
        torch.nn.functional.linear(states, each.weight[:width])[:, None]
        for each in (attn.q_proj, attn.k_proj)
    )
    asked, keys = apply_rotary_pos_emb(asked, keys, *rotation)
    scores = torch.einsum("bnqd,bnkd->bqk", asked, keys).float() * attn.scaling
    later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, float("-inf")).log_softmax(-1)


def astray(llava: Llava, looked: Float[Tensor, "b t t"], batch: Batch) -> Float[Tensor, ""]:
    """Of each token that is about a thing the negative logarithm of how much looks at its patches; a sum."""
    about: Bool[Tensor, "b t p"] = batch.extras["about"]
    wanted = torch.zeros_like(looked, dtype=torch.bool)
    rows, tokens, patches = about.nonzero(as_tuple=True)
    begins = (batch.input_ids == llava.tokens.patch).int().argmax(1)
    wanted[rows, tokens, begins[rows] + patches] = True
    told = about.any(-1)
    return -looked[told].masked_fill(~wanted[told], float("-inf")).logsumexp(-1).sum()
