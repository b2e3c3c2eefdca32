"""Llava: vision tower + linear projector + LLaMA.

Axes   b batch   t text tokens   m images   p patches of an image   s side of a CLIP image
       d language-model width   dv vision width   v vocabulary   r positions that a caller picks
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypedDict

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPVisionModel, GenerationConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llava_patch.config import LlavaConfig
from llava_patch.errors import ConfigError
from llava_patch.generation import Generated, generate, read
from llava_patch.packing import states_packed
from llava_patch.prefix import states_after
from llava_patch.splice import splice
from llava_patch.tokens import ImageTokens, grow_tables
from llava_patch.vision import patch_features

ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
"""Kernels of attention; transformers would take any other name for code to fetch from a hub and run."""


class Llava(nn.Module):
    """A language model that reads pictures through projected CLIP features, and offers its states."""

    def __init__(
        self,
        config: LlavaConfig,
        tokens: ImageTokens,
        *,
        vision_tower: CLIPVisionModel,
        projector: nn.Linear,
        language_model: LlamaForCausalLM,
    ) -> None:
        """Compose finished parts. The tower is frozen; unfreeze it by hand to train it."""
        super().__init__()
        widths = (projector.in_features, projector.out_features)
        expected = (vision_tower.config.hidden_size, language_model.config.hidden_size)
        if widths != expected:
            raise ConfigError(
                f"the projector goes from width {widths[0]} to {widths[1]}, but the vision tower has "
                f"{expected[0]} "
                f"and the language model {expected[1]}; the parts belong to different models."
            )
        self.config = replace(config, vision=vision_tower.config, language=language_model.config)
        self.tokens = tokens
        self.vision_tower = vision_tower.requires_grad_(False)
        self.projector = projector
        self.language_model = language_model

    @classmethod
    def from_config(
        cls, config: LlavaConfig, tokens: ImageTokens, *, seed: int = 0, attn_implementation: str = "sdpa"
    ) -> "Llava":
        """A model of random values that `seed` determines; the caller's random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(config, tokens, **build_parts(config, attn_implementation=attn_implementation))

    @property
    def dtype(self) -> torch.dtype:
        """Type of its parameters."""
        return self.projector.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.projector.weight.device

    @property
    def vocabulary(self) -> int:
        """Rows of both embedding tables."""
        return self.language_model.config.vocab_size

    def forward(
        self,
        input_ids: Int[Tensor, "b t"],
        mask: Bool[Tensor, "b t"],
        clip_pixels: Float[Tensor, "m 3 s s"] | None = None,
        features: Float[Tensor, "m p dv"] | None = None,
        *,
        first: Int[Tensor, " b"] | None = None,
        packed: bool = False,
    ) -> Float[Tensor, "b t d"]:
        """Last states, after the final norm, for left- or right-padded rows. No logits: see `logits`.

        `features`, where given, are what `self.features(clip_pixels)` gave before. With `first`, gradients
        begin at these positions only, of right-padded rows (llava_patch/prefix.py); `packed`, without it,
        computes nothing for padding, whose states are then zeros (llava_patch/packing.py).
        """
        embeddings = self.embed(input_ids, clip_pixels=clip_pixels, features=features)
        with self._autocast(embeddings.dtype, self._layers_dtype):
            if first is not None:
                return states_after(self.language_model, embeddings, mask, first)
            if packed:
                return states_packed(self.language_model, embeddings, mask, positions(mask))
            return self.language_model.model(
                inputs_embeds=embeddings, attention_mask=mask, position_ids=positions(mask), use_cache=False
            ).last_hidden_state

    def features(self, clip_pixels: Float[Tensor, "m 3 s s"]) -> Float[Tensor, "m p dv"]:
        """The tower's patch features, not projected: what may be stored, since the tower is frozen.

        Of no picture (m = 0) it looks at a blank one: processes that share out its parameters look together.
        """
        shown = clip_pixels if len(clip_pixels) else clip_pixels.new_zeros(1, *clip_pixels.shape[1:])
        found = patch_features(self.vision_tower, shown, layer=self.config.vision_layer)
        return found[: len(clip_pixels)]

    def embed(
        self,
        input_ids: Int[Tensor, "b t"],
        *,
        clip_pixels: Float[Tensor, "m 3 s s"] | None = None,
        features: Float[Tensor, "m p dv"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What the language model reads: embeddings, with projected features in the pictures' places."""
        embeddings = self.language_model.model.embed_tokens(input_ids)
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, self._layers_dtype))
        if features is None and clip_pixels is not None:
            features = self.features(clip_pixels)
        if features is None:
            return embeddings
        projected = self.projector(features.to(self.projector.weight.dtype))
        return splice(embeddings, input_ids, projected, self.tokens)

    def logits(self, states: Float[Tensor, "*r d"]) -> Float[Tensor, "*r v"]:
        """Scores of the next token at the states that the caller picked."""
        lm_head = self.language_model.lm_head
        return lm_head(states.to(lm_head.weight.dtype))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "b t"],
        mask: Bool[Tensor, "b t"],
        clip_pixels: Float[Tensor, "m 3 s s"] | None = None,
        *,
        max_new_tokens: int,
        features: Float[Tensor, "m p dv"] | None = None,
        no_repeat_ngram_size: int = 0,
        eos_id: int | None = None,
        stop: tuple[int, ...] = (),
        then: tuple[int, ...] = (),
    ) -> Generated:
        """Answer greedily; each row gets what it would get alone (`stop`, `then`: llava_patch/generation.py).

        The states of it are read by `read`.
        `eos_id` None: the language model's own; a negative number: never stop for it.
        """
        model = self.language_model
        tables = (model.model.embed_tokens.weight.dtype, model.lm_head.weight.dtype)
        with self._autocast(*tables, self._layers_dtype):
            return generate(
                model,
                input_ids,
                mask,
                self.embed(input_ids, clip_pixels=clip_pixels, features=features),
                max_new_tokens=max_new_tokens,
                no_repeat_ngram_size=no_repeat_ngram_size,
                eos_id=_single(model.config.eos_token_id) if eos_id is None else eos_id,
                stop=stop,
                then=then,
            )

    @torch.no_grad()
    def read(self, generated: Generated) -> tuple[Float[Tensor, "_ d"], ...]:
        """Last states of what was generated: states[i] predicts ids[i + 1], row by row."""
        with self._autocast(generated.prompts[0].dtype, self._layers_dtype):
            return read(self.language_model, generated)

    @property
    def _layers_dtype(self) -> torch.dtype:
        # Weights that are kept in few bits are whole numbers: the norms beside them tell.
        parameters = self.language_model.model.layers.parameters()
        return next(each.dtype for each in parameters if each.is_floating_point())

    def _autocast(self, *types: torch.dtype) -> AbstractContextManager:
        """What brings several types together: those of trained and of frozen parts, say."""
        half = next((dtype for dtype in types if dtype != torch.float32), None)
        return torch.autocast(self.device.type, half) if len(set(types)) > 1 else nullcontext()

    def grow(self, count: int, *, generator: torch.Generator | None = None) -> None:
        """Append `count` random rows to both embedding tables. Build optimizers afterwards."""
        grow_tables(self.language_model, count, generator=generator)


def positions(mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """Place of each token in its own row, whichever side is padded.

    left   [0 0 1 1 1] -> [0 0 0 1 2]
    right  [1 1 1 0 0] -> [0 1 2 3 4]
    """
    first = mask.int().argmax(dim=1)
    steps = torch.arange(mask.shape[1], device=mask.device)
    return (steps - rearrange(first, "b -> b 1")).clamp(min=0)


def _single(eos_id: int | list[int] | None) -> int:
    if not isinstance(eos_id, int):
        raise ConfigError(f"the language model's eos_token_id is {eos_id}, expected one id; pass eos_id.")
    return eos_id


class FullPrecisionRotary(LlamaRotaryEmbedding):
    """Rotary frequencies that stay in single precision when the model is cast: half would blur positions."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FullPrecisionRotary":
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != torch.float32:
            fresh = LlamaRotaryEmbedding(self.config).to(self.inv_freq.device)
            self.inv_freq, self.original_inv_freq = fresh.inv_freq, fresh.original_inv_freq
        return self


class Parts(TypedDict):
    """What a Llava is composed of."""

    vision_tower: CLIPVisionModel
    projector: nn.Linear
    language_model: LlamaForCausalLM


def build_parts(config: LlavaConfig, *, attn_implementation: str) -> Parts:
    """The parts in the configured shapes, with whatever values torch gives them."""
    if attn_implementation not in ATTENTION:
        raise ConfigError(
            f"attention {attn_implementation!r} is not known: expected one of {', '.join(ATTENTION)}."
        )
    vision, language = copy.deepcopy(config.vision), copy.deepcopy(config.language)
    try:
        tower, model = CLIPVisionModel(vision), LlamaForCausalLM(language)
        model.model.rotary_emb = FullPrecisionRotary(language)
        model.generation_config = GenerationConfig()  # what a folder says of asking it does not count
    except Exception as error:  # the libraries have no one type for sizes that do not go together
        raise ConfigError(
            f"no model has the sizes of config.json ({type(error).__name__}: {error}); fetch the file again, "
            "the language model's or the vision tower's."
        ) from error
    try:
        tower.set_attn_implementation(attn_implementation)
        model.set_attn_implementation(attn_implementation)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"attention {attn_implementation!r} cannot be used here ({str(error).splitlines()[0]}); "
            "choose 'sdpa', or install what it needs."
        ) from error
    projector = nn.Linear(vision.hidden_size, language.hidden_size)
    return {"vision_tower": tower, "projector": projector, "language_model": model}
