"""DDIM run backwards: latents at each level of noise that would become a picture."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor


def invert(
    answer: Callable[[Tensor, Tensor], Tensor], scheduler: DDIMScheduler, latents: Float[Tensor, "b c h w"]
) -> Float[Tensor, "n b c h w"]:
    """The latents themselves, then at the level of each step of `scheduler`, whose times are set, from the
    last to the first (Song et al. 2021, equation 14, backwards).

    `answer` predicts noise at a time, (latents, t) -> noise, without guidance.
    """
    table = scheduler.alphas_cumprod.to(latents)
    length = len(table)
    found = [latents]
    for t in scheduler.timesteps.flip(0):
        noise = answer(latents, t)
        kept, wanted = table[t], table[min(int(t) + length // len(scheduler.timesteps), length - 1)]
        picture = (latents - (1 - kept).sqrt() * noise) / kept.sqrt()
        latents = wanted.sqrt() * picture + (1 - wanted).sqrt() * noise
        found.append(latents)
    return torch.stack(found)
