"""The door for everything that turns an instruction into a condition."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mgie.errors import ConfigError
from mgie.types import Answer, Asked, Batch, Context, ControlPlan, Term


class AbstractInstructionEncoder(nn.Module, ABC):
    """Says what the denoiser should paint: of conversations in training, of questions in use."""

    @abstractmethod
    def encode(self, batch: Batch) -> Context:
        """The condition of each sample, and the one that says nothing, of whole conversations."""

    @abstractmethod
    def answer(
        self,
        asked: Asked,
        *,
        max_new_tokens: int,
        no_repeat_ngram_size: int,
        compat: Literal["default", "reference"] = "default",
    ) -> Answer:
        """The same of questions, which it answers first. Raises DataError for one that it cannot read."""

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups of parameters; every parameter of the encoder is in exactly one."""

    @property
    @abstractmethod
    def condition_width(self) -> int:
        """Width of the condition."""

    @property
    def speaks(self) -> bool:
        """Whether it has words to learn."""
        return False

    @property
    def reads_latents(self) -> bool:
        """Whether it wants to know the latents of pictures inside instructions, too."""
        return False

    def meet(self, denoiser: nn.Module) -> None:
        """The denoiser that it works with, for an encoder that shares something of it. Raises WeightsError
        for one that lacks it."""
        del denoiser

    def plan(self, context: Context, told: Bool[Tensor, " b"] | None = None) -> ControlPlan | None:
        """What the denoiser is to heed besides the condition; `told`: who is still told the words."""
        del context, told

    def lm_loss(self, context: Context, labels: Int[Tensor, "b t"]) -> Term:
        """Cross-entropies of the labelled tokens, and their number; zeros of an encoder that is mute."""
        del labels
        zero = torch.zeros((), device=context.condition.tokens.device)
        return Term(sum=zero, count=zero.long())

    def at_size(self, context: Context, size: tuple[int, int]) -> Context:
        """The same for pictures of (height, width) pixels; few conditions know of it."""
        del size
        return context

    def image_features(self, clip_pixels: Float[Tensor, "m 3 s s"]) -> Float[Tensor, "m p dv"]:
        """What its vision tower sees, which may be stored where the tower is frozen. Raises ConfigError."""
        del clip_pixels
        raise ConfigError(f"{type(self).__name__} has no features of pictures to store: leave them out.")

    @property
    def vision_tower(self) -> nn.Module:
        """What `image_features` asks. Raises ConfigError where there is none."""
        raise ConfigError(f"{type(self).__name__} has no vision tower: leave its features out.")

    @property
    def vision_dtype(self) -> torch.dtype:
        """Type of its tower's parameters. Raises ConfigError where there is none."""
        return next(self.vision_tower.parameters()).dtype

    @property
    def vision_facts(self) -> dict[str, Any]:
        """What else `image_features` depends on, plain data for JSON."""
        return {}

    def checkpoint_activations(self, *, every: int = 1) -> None:
        """Compute the activations of every such layer again in the backward pass from now on.

        Raises ConfigError where it cannot.
        """
        del every
        raise ConfigError(
            f"train.gradient_checkpointing: {type(self).__name__} keeps all activations; set it to false."
        )

    def rehearse(self, samples: int, *, length: int, words: int) -> tuple[Tensor, Tensor]:
        """The work of `encode` and `lm_loss` on nothing, for `samples` conversations of `length` tokens of
        which `words` have labels each: condition (b q e), and the loss. Only sizes matter.

        Raises ConfigError where it is not known how.
        """
        del samples, length, words
        raise ConfigError(f"--gpu: {type(self).__name__} cannot be rehearsed; leave it out.")

    @property
    def adaptable(self) -> nn.Module:
        """What low-rank adapters are put into, as the group `lora_language_model`. Raises ConfigError."""
        raise ConfigError(
            f"train.groups has lora_language_model: {type(self).__name__} takes no adapters; leave it out."
        )

    @property
    def stages(self) -> dict[str, nn.Module]:
        """Modules that are called one after the other, by the names that a table of times gives them."""
        return {}

    def split_new_tokens(self) -> None:
        """Give the visual tokens' rows parameters of their own, the group `new_tokens`.

        Raises ConfigError where they have none.
        """
        raise ConfigError(
            f"train.groups has new_tokens: {type(self).__name__} has no rows of visual tokens; leave it out."
        )

    def renew_new_tokens(self) -> None:
        """Let rows that were split off begin as their tables have them now."""

    def join_new_tokens(self) -> None:
        """Put rows that were split off back where they belong."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its parameters."""
        return next(self.parameters()).dtype
