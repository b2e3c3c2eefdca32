"""The door for everything that paints."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mgie.errors import ConfigError
from mgie.types import Condition, ControlPlan, Guess, Rows, Source


class AbstractDenoiser(nn.Module, ABC):
    """Sees a noisy picture, the source picture and a condition; predicts what its process asks for."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the picture that is painted."""

    @property
    @abstractmethod
    def condition_width(self) -> int:
        """Width of the condition."""

    @property
    def heeds(self) -> frozenset[str]:
        """Which controls of a plan it can heed: some of `attention` and `features`."""
        return frozenset()

    @property
    def sees_source(self) -> bool:
        """Whether it has a place for the picture before the edit; without, it paints new pictures only."""
        return True

    @property
    def learns_variance(self) -> bool:
        """Whether its guess has a spread."""
        return False

    @property
    def attentions(self) -> Mapping[str, tuple[int, int]]:
        """By name, its attentions to the condition that hooks go around: their width, and the condition's."""
        return {}

    def beside(self, name: str) -> tuple[nn.Module, nn.Module]:
        """One of `attentions` by its name, and the self-attention of the same transformer block."""
        raise LookupError(f"{type(self).__name__} has no attention {name} that hooks go around")

    @property
    def multiple(self) -> int:
        """What the sides of its latents are multiples of."""
        return 1

    @property
    def numbers(self) -> int:
        """Numbers in its widest layer for each latent: what memory is reckoned with."""
        return self.latent_channels

    @property
    def adaptable(self) -> nn.Module:
        """What low-rank adapters are put into, as the group `lora_denoiser`. Raises ConfigError."""
        raise ConfigError(
            f"train.groups has lora_denoiser: {type(self).__name__} takes no adapters; leave it out."
        )

    def checkpoint_activations(self, *, whole: bool) -> None:
        """Compute activations again in the backward pass from now on: all of them, or those of its largest
        layers only. Raises ConfigError where it cannot."""
        del whole
        raise ConfigError(
            f"train.denoiser_checkpointing: {type(self).__name__} keeps all activations; set it to none."
        )

    @abstractmethod
    def forward(
        self,
        noisy: Float[Tensor, "r c h w"],
        t: Int[Tensor, " r"] | Float[Tensor, " r"],
        source: Source,
        condition: Condition,
        plan: ControlPlan | None = None,
        rows: Rows | None = None,
    ) -> Guess:
        """What the process asks for at the times `t`: noise, velocity or sample.

        `rows` says which row asks what, where there is guidance: one that drops a picture by leaving it out
        does so in the rows of U. `plan` says how controls act. Raises DataError for a source that it cannot
        see, and for controls that it cannot heed.
        """

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its parameters."""
        return next(self.parameters()).dtype
