"""Sampling: noise becomes a picture, step by step, by whatever predicts."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from mgie.diffusion.guidance import branches, guided, questions, strength
from mgie.diffusion.process import model_input, start_scale
from mgie.types import Condition, Context, ControlPlan, Guess, Rows, Source

Generators = torch.Generator | list[torch.Generator] | None
Predict = Callable[[Tensor, Tensor, Source, Condition, ControlPlan | None, Rows], Guess]
"""(noisy, t, source, condition, plan, rows) -> Guess: a denoiser."""
Watch = Callable[[int, Tensor, Tensor], Tensor]
"""(step, t, latents) -> latents, after each step."""


def sample(
    predict: Predict,
    scheduler: Any,
    shape: tuple[int, ...],
    source: Source,
    context: Context,
    *,
    guidance: float,
    image_guidance: float,
    plan: ControlPlan | None = None,
    generators: Generators = None,
    watch: Watch | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents of this shape, (b, c, h, w), beside those of the source (InstructPix2Pix, Brooks et al. 2023,
    3.2.1), or of new pictures. They are in the condition's type.

    `scheduler` is a diffusers scheduler of this call's own, with its timesteps set. Noise is drawn from
    `generators`: one, or one for each picture. Raises DataError for a plan that does not fit.
    """
    like = context.condition.tokens
    noise = randn_tensor(shape, generator=generators, device=like.device, dtype=like.dtype)
    latents = noise * start_scale(scheduler)
    words = strength(plan, guidance, like=noise)
    names = questions(source, guidance=words, image_guidance=image_guidance)
    conditions, sources, rows = branches(context, source, names=names)
    # What is heeded here is nothing to the denoiser.
    rest = None if plan is None else replace(plan, blend=None, guidance=None)
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in accepted else {}
    for step, t in enumerate(scheduler.timesteps):
        noisy = torch.cat([model_input(scheduler, latents, t)] * len(rows.names))
        guess = predict(noisy, t.expand(len(noisy)), sources, conditions, rest, rows)
        prediction = guided(guess.mean, rows, guidance=words, image_guidance=image_guidance)
        latents = scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
        if plan is not None and plan.blend is not None:
            latents = plan.blend(latents, step)
        if watch is not None:
            latents = watch(step, t, latents)
    return latents
