"""The door for everything that paints."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn


class AbstractDenoiser(nn.Module, ABC):
    """Sees a noisy picture, the source picture and a condition; predicts what its scheduler asks for."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the picture that is painted."""

    @property
    @abstractmethod
    def condition_width(self) -> int:
        """Width of the condition."""

    @abstractmethod
    def forward(
        self,
        noisy: Float[Tensor, "b c h w"],
        t: Int[Tensor, " b"] | Float[Tensor, " b"],
        source: Float[Tensor, "b c h w"],
        condition: Float[Tensor, "b q e"],
    ) -> Float[Tensor, "b c h w"]:
        """What the scheduler's configuration asks for: noise, velocity or sample at the times `t`."""
