"""The variational bound of a learned variance (Nichol and Dhariwal 2021, section 3.1).

A denoiser says where its variance lies between the two bounds that the schedule gives. How well it says so
is one term of the bound, in bits for each number; its noise is not trained by it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mgie.types import Guess

HALF_BIN = 1 / 255
"""Half of the width of one of 256 values in [-1, 1]."""
TINY = 1e-12
"""Least probability of a value."""
TAIL = 0.999
"""From here on outwards, a value's bin is all of the tail."""


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """q(x_{t-1} | x_t, x_0) of a schedule of variances (Ho et al. 2020, equations 6 and 7)."""

    betas: Float[Tensor, " steps"]

    @cached_property
    def alphas(self) -> Float[Tensor, " steps"]:
        """Products of 1 - beta."""
        return (1 - self.betas.double()).cumprod(0)

    @cached_property
    def before(self) -> Float[Tensor, " steps"]:
        """The same one step earlier."""
        return torch.cat([self.alphas.new_ones(1), self.alphas[:-1]])

    @cached_property
    def log_variance(self) -> Float[Tensor, " steps"]:
        """Of the posterior; at the first time, where it is none, that of the second."""
        variance = self.betas.double() * (1 - self.before) / (1 - self.alphas)
        return torch.cat([variance[1:2], variance[1:]]).log()

    @cached_property
    def weights(self) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
        """Of x_0 and of x_t in the posterior's mean."""
        betas, left = self.betas.double(), 1 - self.alphas
        return betas * self.before.sqrt() / left, (1 - self.before) * (1 - betas).sqrt() / left

    def bound(
        self,
        target: Float[Tensor, "b c h w"],
        noisy: Float[Tensor, "b c h w"],
        guess: Guess,
        t: Int[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """The term of each sample at its time: a divergence from the posterior, at time 0 the likelihood of
        256 values, in bits for each number. `guess.mean` is noise, and no gradient reaches it."""
        assert guess.spread is not None

        def at(table: Tensor) -> Float[Tensor, "b 1 1 1"]:
            return table.to(t.device)[t][:, None, None, None]

        target, noisy = target.double(), noisy.double()
        product = at(self.alphas)
        clean = (noisy - (1 - product).sqrt() * guess.mean.detach().double()) / product.sqrt()
        of_clean, of_noisy = (at(table) for table in self.weights)
        true_mean, mean = of_clean * target + of_noisy * noisy, of_clean * clean + of_noisy * noisy
        least, most = at(self.log_variance), at(self.betas.double().log())
        share = (guess.spread.double() + 1) / 2
        log_variance = share * most + (1 - share) * least
        apart = (true_mean - mean).square()
        divergence = 0.5 * (
            log_variance - least - 1 + (least - log_variance).exp() + apart * (-log_variance).exp()
        )
        likelihood = log_likelihood(target.float(), mean.float(), 0.5 * log_variance.float())
        term = torch.where((t == 0)[:, None, None, None], -likelihood, divergence)
        return (term.mean(dim=(1, 2, 3)) / math.log(2)).float()


def log_likelihood(
    values: Float[Tensor, "*n"], mean: Float[Tensor, "*n"], log_deviation: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Of values in [-1, 1] in 256 bins, under a Gaussian whose distribution is approximated by a tanh."""
    scale, away = (-log_deviation).exp(), values - mean
    below, above = (_normal((away + side) * scale) for side in (-HALF_BIN, HALF_BIN))
    inside = (above - below).clamp(min=TINY).log()
    lowest, highest = above.clamp(min=TINY).log(), (1 - below).clamp(min=TINY).log()
    return torch.where(values < -TAIL, lowest, torch.where(values > TAIL, highest, inside))


def _normal(values: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))
