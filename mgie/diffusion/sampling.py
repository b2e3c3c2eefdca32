"""Sampling: noise becomes a picture, step by step, by whatever predicts."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from mgie.diffusion.guidance import branches, guided, questions, strength
from mgie.diffusion.process import model_input, start_scale
from mgie.errors import ConfigError, DataError
from mgie.types import Condition, Context, ControlPlan, Guess, Rows, Source

Generators = torch.Generator | list[torch.Generator] | None
Predict = Callable[[Tensor, Tensor, Source, Condition, ControlPlan | None, Rows], Guess]
"""(noisy, t, source, condition, plan, rows) -> Guess: a denoiser."""
Watch = Callable[[int, Tensor, Tensor], Tensor | None]
"""(step, t, latents) -> latents, after each step; None: this step was the last."""
Reference = Callable[[int], Tensor]
"""How a picture looks to the sampler after so many steps: latents at that level of noise."""


def start_noise(
    shape: tuple[int, ...], context: Context, generators: Generators = None
) -> Float[Tensor, "b c h w"]:
    """What a sampling of latents of this shape starts from, before it is scaled for the sampler; in the type
    of the condition."""
    like = context.condition.tokens
    return randn_tensor(shape, generator=generators, device=like.device, dtype=like.dtype)


def reference_of(
    scheduler: Any, latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]
) -> Reference:
    """A picture's latents, scaled, at every level of a sampling that starts from `noise`: with that noise on
    them, and themselves after the last step. `scheduler` has its timesteps set.

    Raises ConfigError for a sampler that cannot put noise on a picture.
    """
    own = copy.deepcopy(scheduler)  # some count their steps
    if not (hasattr(own, "add_noise") or hasattr(own, "scale_noise")):
        raise ConfigError(
            f"{type(own).__name__} cannot put noise on a picture: expected a sampler with add_noise or "
            "scale_noise, which a mask needs; set another one."
        )

    def at(step: int) -> Tensor:
        if step == len(own.timesteps):
            return latents
        t = own.timesteps[step].expand(len(latents))
        if hasattr(own, "add_noise"):
            return own.add_noise(latents, noise, t)
        return own.scale_noise(latents, t, noise)  # flows

    return at


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
    noise: Float[Tensor, "b c h w"] | None = None,
    reference: Reference | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents of this shape, (b, c, h, w), beside those of the source (InstructPix2Pix, Brooks et al. 2023,
    3.2.1), or of new pictures. They are in the condition's type.

    `scheduler` is a diffusers scheduler of this call's own, with its timesteps set. Noise is drawn from
    `generators`: one, or one for each picture; or it is `noise`, as `start_noise` draws it. A plan that
    blends features asks for a `reference`. Raises DataError for a plan that does not fit.
    """
    if noise is None:
        noise = start_noise(shape, context, generators)
    latents = noise * start_scale(scheduler)
    words = strength(plan, guidance, like=noise)
    names = questions(source, guidance=words, image_guidance=image_guidance)
    if plan is not None and plan.features is not None and reference is None:
        raise DataError("the plan blends features: expected the reference that they come from; give it too.")
    asked = [branches(context, source, names=names)]
    if plan is not None and plan.features is not None:
        asked.append(branches(context, source, names=(*names, "R")))
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in accepted else {}
    for step, t in enumerate(scheduler.timesteps):
        now = None if plan is None else plan.at(step / len(scheduler.timesteps)).inner
        blended = now is not None and now.features is not None
        conditions, sources, rows = asked[blended]
        noisy = [model_input(scheduler, latents, t)] * len(names)
        if blended and reference is not None:
            noisy.append(model_input(scheduler, reference(step).to(latents), t))
        noisy = torch.cat(noisy)
        guess = predict(noisy, t.expand(len(noisy)), sources, conditions, now, rows)
        prediction = guided(guess.mean, rows, guidance=words, image_guidance=image_guidance)
        latents = scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
        if plan is not None and plan.blend is not None:
            latents = plan.blend(latents, step)
        if watch is not None:
            watched = watch(step, t, latents)
            if watched is None:
                break
            latents = watched
    return latents
