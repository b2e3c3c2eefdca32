"""Corrupting a picture, what the denoiser should answer, and how diffusion times are drawn."""

from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from mgie.errors import ConfigError


def corrupt(
    target: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    scheduler: DDPMScheduler,
) -> Float[Tensor, "b c h w"]:
    """The target at the diffusion times `t` (DDPM, equation 4)."""
    return scheduler.add_noise(target, noise, t)


def prediction_target(
    scheduler: DDPMScheduler,
    target: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:
    """What the denoiser should answer: noise, velocity (progressive distillation, 4) or the target."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(target, noise, t)
    if kind == "sample":
        return target
    raise ConfigError(f"the scheduler predicts {kind!r}: expected epsilon, v_prediction or sample.")


def draw_timesteps(u: Float[Tensor, " b"], steps: int, *, shift: float = 1.0) -> Int[Tensor, " b"]:
    """Diffusion times in 0 .. steps - 1 from uniform numbers in [0, 1).

    `shift` above 1 moves them towards noise (Stable Diffusion 3, equation 23); 1 leaves them uniform.
    """
    shifted = shift * u / (1 + (shift - 1) * u)
    return (shifted * steps).long().clamp(max=steps - 1)
