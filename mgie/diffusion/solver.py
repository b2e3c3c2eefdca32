"""DPM-Solver++ over fractional times, as PixArt's and MIGE's authors sample.

Second order, several steps, data prediction (Lu et al. 2022, arXiv 2211.01095, algorithm 2), on a grid that
is uniform in continuous time and never reaches a picture without noise. diffusers' own asks at whole times.
"""

from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import ConfigMixin, DDPMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from jaxtyping import Float
from torch import Tensor

from mgie.errors import ConfigError

LOWER_ORDER = 10
"""In fewer steps the last is of first order."""


@dataclass
class Stepped(BaseOutput):
    """The latents after a step."""

    prev_sample: Tensor


class UniformDPMSolverScheduler(SchedulerMixin, ConfigMixin):
    """A schedule of variances in continuous time, log a interpolated between its steps, from 1 down to
    1 / steps of the schedule. A denoiser is asked at (time - 1 / n) n, which is fractional."""

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
    ):
        """The defaults are MIGE's. Raises ConfigError for a prediction that is none of three."""
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ConfigError(
                f"the scheduler predicts {prediction_type!r}: expected epsilon, v_prediction or sample."
            )
        table = DDPMScheduler(
            num_train_timesteps=num_train_timesteps, beta_start=beta_start, beta_end=beta_end,
            beta_schedule=beta_schedule, trained_betas=trained_betas,
        )  # fmt: skip
        self.betas = table.betas
        self._logs = 0.5 * np.log1p(-table.betas.double().numpy()).cumsum()  # log a at the schedule's steps
        self._before: tuple[float, Tensor] | None = None
        self._taken = 0
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """The times of so many steps, fractional, from the last one of the schedule downwards."""
        length = self.config.num_train_timesteps
        self.grid = np.linspace(1.0, 1.0 / length, num_inference_steps + 1)
        self.num_inference_steps = num_inference_steps
        times = (self.grid - 1.0 / length) * length
        self.timesteps = torch.tensor(times[:-1], dtype=torch.float32, device=device)
        self._before, self._taken = None, 0

    def levels(self, time: float) -> tuple[float, float, float]:
        """How much of picture and of noise there is at a continuous time, and the log of their ratio."""
        length = self.config.num_train_timesteps
        log = float(np.interp(time, (1 + np.arange(length)) / length, self._logs))
        noise = 0.5 * np.log(-np.expm1(2 * log))
        return float(np.exp(log)), float(np.exp(noise)), float(log - noise)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """As it is."""
        del timestep
        return sample

    def step(
        self,
        model_output: Float[Tensor, "b c h w"],
        timestep: Any,
        sample: Float[Tensor, "b c h w"],
        return_dict: bool = True,
    ) -> Stepped | tuple[Tensor]:
        """The latents at the next time. Steps are counted, so `timestep` is not asked."""
        del timestep
        here, after = self.grid[self._taken], self.grid[self._taken + 1]
        kept, noise, level = self.levels(here)
        next_kept, next_noise, next_level = self.levels(after)
        clean = self._clean(model_output, sample, kept, noise)
        last = self._taken + 1 == self.num_inference_steps and self.num_inference_steps < LOWER_ORDER
        away, towards = next_level - level, clean
        if self._before is not None and not last:
            ratio = (level - self._before[0]) / away
            towards = clean + (clean - self._before[1]) / (2 * ratio)
        self._before, self._taken = (level, clean), self._taken + 1
        moved = (next_noise / noise) * sample - next_kept * float(np.expm1(-away)) * towards
        return Stepped(prev_sample=moved) if return_dict else (moved,)

    def add_noise(
        self, original_samples: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], timesteps: Tensor
    ) -> Float[Tensor, "b c h w"]:
        """Pictures at the times of this sampler."""
        length = self.config.num_train_timesteps
        both = [self.levels((float(t) + 1) / length)[:2] for t in timesteps]
        kept, share = torch.tensor(both).to(original_samples)[..., None, None, None].unbind(1)
        return kept * original_samples + share * noise

    def _clean(self, answer: Tensor, sample: Tensor, kept: float, noise: float) -> Tensor:
        predicts = self.config.prediction_type
        if predicts == "epsilon":
            return (sample - noise * answer) / kept
        return kept * sample - noise * answer if predicts == "v_prediction" else answer

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def scheduler_class(name: str) -> Any:
    """The scheduler of this name, of diffusers or of ours; None where there is none."""
    kind = getattr(diffusers, name, None) or {each.__name__: each for each in OWN}.get(name)
    return kind if isinstance(kind, type) and issubclass(kind, SchedulerMixin) else None


OWN = (UniformDPMSolverScheduler,)
"""Schedulers beside the library's."""
