"""Sampling: noise becomes a picture, step by step, by whatever predicts."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from mgie.diffusion.guidance import branches, guided
from mgie.diffusion.process import model_input, start_scale
from mgie.types import Condition, Context, ControlPlan, Guess, Rows

Generators = torch.Generator | list[torch.Generator] | None
Predict = Callable[[Tensor, Tensor, Tensor, Condition, ControlPlan | None, Rows], Guess]
"""(noisy, t, source, condition, plan, rows) -> Guess: a denoiser."""
Watch = Callable[[int, Tensor, Tensor], Tensor]
"""(step, t, latents) -> latents, after each step."""


def sample(
    predict: Predict,
    scheduler: Any,
    source: Float[Tensor, "b c h w"],
    context: Context,
    *,
    guidance: float,
    image_guidance: float,
    plan: ControlPlan | None = None,
    generators: Generators = None,
    watch: Watch | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents of the edited pictures, beside the source's (InstructPix2Pix, Brooks et al. 2023, 3.2.1).

    `scheduler` is a diffusers scheduler of this call's own, with its timesteps set. Noise is drawn from
    `generators`: one, or one for each picture.
    """
    noise = randn_tensor(source.shape, generator=generators, device=source.device, dtype=source.dtype)
    latents = noise * start_scale(scheduler)
    strength = guidance if plan is None or plan.guidance is None else plan.guidance
    conditions, sources, rows = branches(context, source, guidance=strength, image_guidance=image_guidance)
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in accepted else {}
    for step, t in enumerate(scheduler.timesteps):
        noisy = torch.cat([model_input(scheduler, latents, t)] * len(rows.names))
        guess = predict(noisy, t.expand(len(noisy)), sources, conditions, plan, rows)
        prediction = guided(guess.mean, rows, guidance=strength, image_guidance=image_guidance)
        latents = scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
        if plan is not None and plan.blend is not None:
            latents = plan.blend(latents, step)
        if watch is not None:
            latents = watch(step, t, latents)
    return latents
