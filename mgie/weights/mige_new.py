"""New parts for MIGE's encoder, of any size: they know nothing yet.

The tokenizer is a LLaVA's, so that a text encoder of the same words can teach (train.align_weight).
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    LlamaTokenizer,
    T5Config,
    T5EncoderModel,
)

from llava_patch.ranges import Range
from mgie.errors import ConfigError, WeightsError
from mgie.instructions import Templates
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.fusion import FeatureFusion
from mgie.models.encoders.pooling import StatePooling
from mgie.models.encoders.qformer_t5 import QFormerT5Encoder
from mgie.prompts import SAID, MigePrompts
from mgie.types import Batch, Context
from mgie.weights.parts import resolve

PATCH = 2
"""Latents along the side of a visual token."""
WIDEST, MOST, LARGEST = 2**14, 2**10, 2**12
Edge = Annotated[int, Range(ge=1, le=LARGEST)]
Width = Annotated[int, Range(ge=1, le=WIDEST)]
Several = Annotated[int, Range(ge=1, le=MOST)]


@dataclass(frozen=True, kw_only=True)
class NewMige:
    """Sizes of new parts: all of them are as wide, and have as many heads."""

    tokenizer: str
    """LLaVA-v1 folder whose words T5 reads."""
    edge: Edge = 64
    """Side of the squares that the vision tower sees, in pixels."""
    patch: Edge = 8
    """Side of its patches."""
    channels: Width
    """Of the codec's latents."""
    width: Width = 128
    heads: Several = 4
    layers: Several = 3
    """Of tower, Q-Former and T5 each."""
    queries: Several = 8
    """Tokens of a picture."""
    states: Several = 16
    """Of the condition."""
    length: Annotated[int, Range(ge=1, le=2**16)] = 192
    """Longest prompt, in tokens."""

    def check(self) -> None:
        """Parts of the width and of the edge are whole. Raises ConfigError."""
        # What is out of its range is told by who holds this, once it is made.
        parts = (("width", WIDEST, "heads", MOST), ("edge", LARGEST, "patch", LARGEST))
        for whole, largest, part, most in parts:
            size, by = getattr(self, whole), getattr(self, part)
            if 0 < by <= most and 0 < size <= largest and size % by:
                told = f"model.encoder.new.{whole}={size} is no multiple of model.encoder.new.{part}={by}"
                raise ConfigError(f"{told}: change one of them.")


def new_encoder(sizes: NewMige, *, told: int, seed: int) -> QFormerT5Encoder:
    """Drawn from `seed`, for a denoiser whose condition is `told` wide. Raises WeightsError for sizes that do
    not go together."""
    width, inner = sizes.width, 2 * sizes.width
    common: dict[str, Any] = {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            vision = Blip2VisionModel(
                Blip2VisionConfig(
                    **common, image_size=sizes.edge, patch_size=sizes.patch, initializer_range=width**-0.5
                )
            )
            read = Blip2QFormerConfig(
                **common, encoder_hidden_size=width, cross_attention_frequency=1, hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0, initializer_range=width**-0.5,
            )  # fmt: skip
            written = T5Config(
                vocab_size=len(tokenizer_of(sizes)), d_model=width, d_kv=width // sizes.heads, d_ff=inner,
                num_layers=sizes.layers, num_heads=sizes.heads, dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )  # fmt: skip
            encoder = QFormerT5Encoder(
                vision, Blip2QFormerModel(read), FeatureFusion(width, width, heads=sizes.heads),
                T5EncoderModel(written),
                queries=sizes.queries, length=sizes.length,
                patches=nn.Conv2d(sizes.channels, width, PATCH, stride=PATCH),
                pooling=StatePooling(width, told, queries=sizes.states, heads=sizes.heads),
            )  # fmt: skip
        except (ValueError, AssertionError) as error:
            raise WeightsError(
                f"model.encoder.new has sizes that do not go together ({error}): expected a width that is a "
                "multiple of heads, and an edge that is one of patch."
            ) from error
        nn.init.normal_(encoder.query_tokens, std=1.0)  # alike, they would stay alike
    return encoder


def new_prompts(sizes: NewMige, *, templates: Templates) -> MigePrompts:
    """Prompts in the words of a LLaVA."""
    return MigePrompts(
        tokenizer_of(sizes), queries=sizes.queries, most=sizes.length, edge=sizes.edge, mean=(0.5,) * 3,
        std=(0.5,) * 3, templates=templates,
    )  # fmt: skip


def tokenizer_of(sizes: NewMige) -> Any:
    """The LLaVA's words. Raises WeightsError."""
    try:
        return LlamaTokenizer.from_pretrained(resolve(sizes.tokenizer), local_files_only=True)
    except Exception as error:  # the library has no one type for files that are none
        raise WeightsError(
            f"{sizes.tokenizer} holds no tokenizer ({type(error).__name__}: {error}): expected a LLaVA-v1 "
            "folder."
        ) from error


class SaidTeacher(ClipTextEncoder):
    """Reads the words of the answer where the encoder itself is not told them: among the extras."""

    def encode(self, batch: Batch) -> Context:
        """The answer's words, encoded."""
        words, mask = self._to_front(batch.extras[SAID].clamp(min=0), batch.extras[SAID] >= 0)
        return self.read(words, mask)


def said_teacher(text_model: Any, prompts: MigePrompts, *, states: int) -> SaidTeacher:
    """A text encoder for T5's own words and so many states; the prompts tell it the answers from now on.

    Raises ConfigError where it cannot teach.
    """
    words, length = len(prompts.tokenizer), text_model.config.max_position_embeddings
    if text_model.config.vocab_size != words or not 0 < states <= length:
        raise ConfigError(
            f"train.align_weight: the text encoder reads {text_model.config.vocab_size} words in {length} "
            f"places, T5 has {words}, and its states are pooled to {states or 'no number'}: expected "
            f"the same vocabulary and 1 to {length} states (model.encoder.new), or train.align_weight 0."
        )
    prompts.taught = True
    return SaidTeacher(text_model, silent_ids=(), pooled=states if states < length else None)
