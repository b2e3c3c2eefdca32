"""The error of a guess, weighed by place, and what is made of it."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Reduction = Literal["mean", "weighted"]
"""What a weighted error is divided by: all there is, as published, so that small things count little; or its
weights, so that they count as much as large ones."""


def squared_error(
    guess: Float[Tensor, "b c h w"],
    wanted: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "b 1 h w"] | None = None,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, " b"]:
    """Mean squared error of each sample, in float32; `weight`, of 0 to 1, says how much each place counts."""
    error = (guess.float() - wanted.float()).square()
    if weight is None:
        return error.mean(dim=(1, 2, 3))
    mean = (weight * error).mean(dim=(1, 2, 3))
    if reduction == "mean":
        return mean
    return mean / weight.mean(dim=(1, 2, 3)).clamp_min(torch.finfo(weight.dtype).eps)


def softened(
    mask: Float[Tensor, "b 1 y x"], grid: tuple[int, int], *, floor: float
) -> Float[Tensor, "b 1 h w"]:
    """How much each latent counts: 1 where the mask is 1, `floor` where it is 0, between them in proportion
    (MuDI's soft segmentation masks). `floor` 1 is no mask at all."""
    small = F.interpolate(mask.float(), size=grid, mode="bilinear", align_corners=False)
    return small * (1 - floor) + floor


def dco(error: Float[Tensor, " b"], plain: Float[Tensor, " b"], *, beta: float) -> Float[Tensor, " b"]:
    """Direct consistency optimisation (Lee et al. 2024, arXiv 2402.12004) of each sample: be better
    than the model that one started from, but not by being anything else.

    `error` is the trained model's and `plain`, which takes no gradient, the untrained one's. log 2 where they
    are equal.
    """
    return -F.logsigmoid(-beta * (error - plain.detach()))
