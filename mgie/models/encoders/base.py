"""The door for everything that turns an instruction into a condition."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mgie.types import Batch, Context


class AbstractInstructionEncoder(nn.Module, ABC):
    """Reads a batch and says what the denoiser should paint; may also learn to say it in words."""

    @abstractmethod
    def encode(self, batch: Batch) -> Context:
        """The condition of each sample, and the one condition that says nothing."""

    def lm_loss(
        self, context: Context, labels: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Sum of cross-entropies over the labelled positions, and their number; zeros if it is mute."""
        del labels
        zero = torch.zeros((), device=context.tokens.device)
        return zero, zero.long()

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups of parameters; every parameter of the encoder is in exactly one."""
