"""MIGE's encoder: T5 reads words with pictures between them (Tian et al. 2025).

A picture becomes a few tokens: BLIP-2's Q-Former says what it means (Li et al. 2023), and by feature fusion
these tokens look at the patches of its latents. They stand between the words in T5's input.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerModel, Blip2VisionModel, T5EncoderModel

from mgie.errors import ConfigError, DataError, WeightsError
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.models.encoders.fusion import FeatureFusion, patch_tokens
from mgie.models.encoders.pooling import StatePooling
from mgie.types import Answer, Asked, Batch, Condition, Context, Pictures

NORM_EPSILON = 1e-5
"""Of the norm behind the vision tower, whose own norms have 1e-6 (BLIP-2)."""
BLANK = 8
"""Side of the latents that stand for no picture: whole patches, as few as there may be."""
Patchify = Callable[[Tensor], Tensor]
"""Latents (j c h w) -> tokens (j p fv)."""


class QFormerT5Encoder(AbstractInstructionEncoder):
    """Says nothing; its condition is T5's last states, as long as the prompt.

    The null is a table in the place of those states, under the mask of the prompt that it replaces.
    """

    def __init__(
        self,
        vision: Blip2VisionModel,
        qformer: Blip2QFormerModel,
        fusion: FeatureFusion,
        text: T5EncoderModel,
        *,
        queries: int,
        length: int,
        patches: nn.Conv2d | None = None,
        pooling: StatePooling | None = None,
    ):
        """A picture becomes `queries` tokens, a prompt has at most `length`.

        `patches` makes visual tokens of latents; None: the denoiser's own does (`meet`). `pooling` makes as
        many states of T5's as the denoiser hears; None: it hears all. Raises WeightsError for parts that were
        not made for each other.
        """
        super().__init__()
        width, seen = qformer.config.hidden_size, qformer.config.encoder_hidden_size
        if seen != vision.config.hidden_size or fusion.width != width:
            raise WeightsError(
                f"the Q-Former takes pictures of width {seen} and gives tokens of {width}, the vision tower "
                f"gives {vision.config.hidden_size} and the fusion takes {fusion.width}: use parts that were "
                "trained together."
            )
        vision.post_layernorm.eps = NORM_EPSILON
        self.vision, self.qformer, self.fusion, self.text, self.patches = (
            vision, qformer, fusion, text, patches,
        )  # fmt: skip
        self.pooling = pooling
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, width))
        self.projector = nn.Linear(width, text.config.d_model)
        self.register_buffer("null", torch.zeros(length, text.config.d_model))
        self.null: Tensor
        # A denoiser's, and no part of this module: it is trained, saved and moved with the denoiser.
        self._patchify: Patchify | None = None if patches is None else self._own_patches
        self._channels = 0 if patches is None else patches.in_channels

    @property
    def reads_latents(self) -> bool:
        """The fusion looks at them."""
        return True

    def meet(self, denoiser: nn.Module) -> None:
        """From now on that denoiser's own patches are what pictures look like, unless there are own ones.
        Raises WeightsError for one that has none of the width."""
        if self.patches is not None:
            return
        painting: Any = denoiser
        given = getattr(denoiser, "patch_width", None)
        if given != self.fusion.visual:
            raise WeightsError(
                f"the fusion takes patches of width {self.fusion.visual}, and the {type(denoiser).__name__} "
                f"has {given or 'none'}: use parts that were trained together."
            )
        self._patchify, self._channels = painting.patches, painting.latent_channels

    def encode(self, batch: Batch) -> Context:
        """The instructions with their pictures; what is said of the result is not read."""
        seen = self.image_features(batch.clip_pixels) if batch.features is None else batch.features
        return self.read(batch.input_ids, batch.mask, seen, batch.pictures)

    @torch.no_grad()
    def answer(
        self,
        asked: Asked,
        *,
        max_new_tokens: int,
        no_repeat_ngram_size: int,
        compat: Literal["default", "reference"] = "default",
    ) -> Answer:
        """The same of prompts. It says nothing."""
        del max_new_tokens, no_repeat_ngram_size, compat
        rows = len(asked.input_ids)
        context = self.read(
            asked.input_ids, asked.mask, self.image_features(asked.clip_pixels), asked.pictures
        )
        return Answer(context=context, said=((),) * rows, forced=(False,) * rows)

    def read(
        self,
        ids: Int[Tensor, "b t"],
        mask: Bool[Tensor, "b t"],
        seen: Float[Tensor, "j p dv"],
        pictures: Pictures | None,
    ) -> Context:
        """Encode prompts, padded on the right, whose pictures have the tower's features `seen`.

        Raises DataError for prompts that are too long, and for pictures without latents.
        """
        length = ids.shape[1]
        if length > len(self.null):
            raise DataError(
                f"a prompt has {length} tokens, expected at most {len(self.null)}: say it in fewer words."
            )
        words = self.text.get_input_embeddings()(ids)  # b t d
        tokens = self._condition(self.mixed(words, seen, pictures), mask)
        if self.pooling is not None:
            pooled = Condition(tokens=self.pooling(tokens, mask))
            return Context(condition=pooled, null=Condition(tokens=self.pooling.null))
        return Context(
            condition=Condition(tokens=tokens, mask=mask), null=Condition(tokens=self.null[None, :length])
        )

    def mixed(
        self, words: Float[Tensor, "b t d"], seen: Float[Tensor, "j p dv"], pictures: Pictures | None
    ) -> Float[Tensor, "b t d"]:
        """Words with the tokens of pictures in their places; what stands beyond the end is left out."""
        if pictures is None or not len(pictures.at):
            return self._with_no_picture(words)
        if pictures.latents is None or len(seen) != len(pictures.at):
            given = 0 if pictures.latents is None else len(pictures.latents)
            raise DataError(
                f"there are places for {len(pictures.at)} pictures, features of {len(seen)} and latents of "
                f"{given}: expected as many of each; encode the pictures first."
            )
        tokens = self.picture_tokens(seen, pictures.latents).to(words)
        rows, first = pictures.at.unbind(1)
        count = tokens.shape[1]
        places = first[:, None] + torch.arange(count, device=first.device)
        longer = F.pad(words, (0, 0, 0, count))
        return longer.index_put((rows[:, None].expand_as(places), places), tokens)[:, : words.shape[1]]

    def picture_tokens(
        self, seen: Float[Tensor, "j p dv"], latents: Float[Tensor, "j c _ _"]
    ) -> Float[Tensor, "j k d"]:
        """What stands between the words for each picture."""
        fused = self.fusion(self.semantic(seen), self.visual(latents))
        return self.projector(fused)

    def semantic(self, seen: Float[Tensor, "j p dv"]) -> Float[Tensor, "j k f"]:
        """The Q-Former's tokens of the tower's features."""
        seen = self.vision.post_layernorm(seen.to(self.vision.post_layernorm.weight))
        queries = self.query_tokens.expand(len(seen), -1, -1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state

    def visual(self, latents: Float[Tensor, "j c _ _"]) -> Float[Tensor, "j p fv"]:
        """Patches of latents, which are not scaled. Raises WeightsError before `meet`."""
        if self._patchify is None:
            raise WeightsError("the encoder has met no denoiser, whose patches it sees: make an Editor.")
        return self._patchify(latents).to(self.query_tokens.dtype)

    def _condition(
        self, embeddings: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b t d"]:
        return self.text(inputs_embeds=embeddings, attention_mask=mask.long()).last_hidden_state

    def _with_no_picture(self, words: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """While it is trained, a blank picture counts nothing: of several processes each one knows the
        gradient of every parameter."""
        if not (self.training and torch.is_grad_enabled()):
            return words
        side = self.vision.config.image_size
        assert isinstance(side, int)
        blank = self.image_features(self.query_tokens.new_zeros(1, 3, side, side))
        tokens = self.picture_tokens(blank, blank.new_zeros(1, self._channels, BLANK, BLANK))
        return words + 0 * tokens.sum().to(words)

    def _own_patches(self, latents: Float[Tensor, "j c h w"]) -> Float[Tensor, "j p fv"]:
        assert self.patches is not None
        return patch_tokens(self.patches, latents)

    @property
    def condition_width(self) -> int:
        """That of T5, or of what its states are pooled to."""
        return self.text.config.d_model if self.pooling is None else self.pooling.told

    def image_features(self, clip_pixels: Float[Tensor, "j 3 s s"]) -> Float[Tensor, "j p dv"]:
        """The tower's tokens, before the norm that is trained with the Q-Former; of no picture as LLaVA's."""
        shown = clip_pixels if len(clip_pixels) else clip_pixels.new_zeros(1, *clip_pixels.shape[1:])
        embedded = self.vision.embeddings(shown)
        return self.vision.encoder(inputs_embeds=embedded).last_hidden_state[: len(clip_pixels)]

    @property
    def vision_tower(self) -> nn.Module:
        """EVA-CLIP's, as in BLIP-2."""
        return self.vision

    def checkpoint_activations(self, *, every: int = 1) -> None:
        """Those of T5, in all of its layers. Raises ConfigError for some of them."""
        if every != 1:
            raise ConfigError(
                f"train.checkpointing_every={every}: T5 computes all of its layers again or none; say 1."
            )
        self.text.activation_checkpointing_enable()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The tower apart from the norm behind it, which is trained with the Q-Former."""
        norm = list(self.vision.post_layernorm.parameters())
        behind = {id(parameter) for parameter in norm}
        own = [] if self.patches is None else list(self.patches.parameters())
        return {
            "vision_tower": [each for each in self.vision.parameters() if id(each) not in behind],
            "qformer": [self.query_tokens, *norm, *self.qformer.parameters()],
            "fusion": [*self.fusion.parameters(), *own],
            "projector": list(self.projector.parameters()),
            "text_encoder": list(self.text.parameters()),
            **({} if self.pooling is None else {"pooling": list(self.pooling.parameters())}),
        }
