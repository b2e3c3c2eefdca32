"""How pictures are corrupted, what is predicted, how times are drawn, what samples.

x_t = a x_0 + s e, with e standard normal. Four cases of one interface: noise, velocity or picture predicted
on a schedule of variances (Ho et al. 2020; Salimans and Ho 2022), and flow matching (Lipman et al. 2023),
where a = 1 - s and what is predicted is e - x_0.
"""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor

from mgie.errors import ConfigError

Latents = Float[Tensor, "b c h w"]
Times = Int[Tensor, " b"] | Float[Tensor, " b"]
Level = Float[Tensor, "b 1 1 1"]


class AbstractProcess(ABC):
    """One way from pictures to noise and back, over a training schedule of diffusers."""

    schedule: Any
    """A diffusers scheduler: what a release keeps of the process."""

    @property
    def length(self) -> int:
        """Largest time, which is noise; sampling cannot take more steps."""
        return self.schedule.config.num_train_timesteps

    @abstractmethod
    def times(self, u: Float[Tensor, " b"], *, shift: float = 1.0) -> Times:
        """Diffusion times from uniform numbers in [0, 1).

        `shift` above 1 moves them towards noise (Stable Diffusion 3, Esser et al. 2024, equation 23).
        """

    @abstractmethod
    def corrupt(self, target: Latents, noise: Latents, t: Times) -> Latents:
        """The target at the times `t`."""

    @abstractmethod
    def wanted(self, target: Latents, noise: Latents, t: Times) -> Latents:
        """What a denoiser shall predict at the times `t`."""

    @abstractmethod
    def clean(self, noisy: Latents, prediction: Latents, t: Times) -> Latents:
        """The picture that a prediction stands for."""

    @abstractmethod
    def sampler_settings(self) -> dict[str, Any]:
        """What a sampler must be told besides the schedule's configuration."""

    def sampler(self, name: str, *, steps: int = 1) -> Any:
        """The diffusers scheduler called `name` over this process.

        Raises ConfigError where there is none, or where it cannot sample in so many steps as an editor does.
        """
        kind: Any = getattr(diffusers, name, None)
        if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
            raise ConfigError(
                f"sampling.scheduler is {name!r}: expected a scheduler of diffusers, such as DDIMScheduler."
            )
        known = inspect.signature(kind.__init__).parameters
        settings = {key: value for key, value in self.sampler_settings().items() if key in known}
        try:
            # What the library warns of is no reason to refuse.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._try_out(kind.from_config(self.schedule.config, **settings), steps)
        except (
            Exception
        ) as error:  # the library has no one type for what makes no schedule, or lacks a package
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ConfigError(
                f"sampling.scheduler={name} with sampling.steps={steps} cannot sample here ({reason}): "
                "expected a scheduler such as DDIMScheduler, and from 1 step to as many as the training "
                "schedule has."
            ) from error
        return kind.from_config(self.schedule.config, **settings)

    def _try_out(self, sampler: Any, steps: int) -> None:
        """Two steps with numbers that mean nothing."""
        latents = torch.zeros(1, 4, 8, 8)
        sampler.set_timesteps(steps)
        latents = latents * start_scale(sampler)
        for t in sampler.timesteps[:2]:
            latents = sampler.step(model_input(sampler, latents, t), t, latents, return_dict=False)[0]
        if not len(sampler.timesteps):
            raise ValueError("no step at all")


class VarianceProcess(AbstractProcess):
    """A schedule of variances, a^2 + s^2 = 1, that says whether noise, velocity or picture is predicted."""

    def __init__(self, schedule: DDPMScheduler):
        """Raises ConfigError for a prediction that is none of the three."""
        self.schedule = schedule
        self.predicts: str = schedule.config.prediction_type
        if self.predicts not in ("epsilon", "v_prediction", "sample"):
            raise ConfigError(
                f"the scheduler predicts {self.predicts!r}: expected epsilon, v_prediction or sample."
            )

    def times(self, u: Float[Tensor, " b"], *, shift: float = 1.0) -> Times:
        """Whole numbers in 0 .. length - 1."""
        return (shifted(u, shift) * self.length).long().clamp(max=self.length - 1)

    def corrupt(self, target: Latents, noise: Latents, t: Times) -> Latents:
        """DDPM, equation 4."""
        return self.schedule.add_noise(target, noise, t)

    def wanted(self, target: Latents, noise: Latents, t: Times) -> Latents:
        """Noise, the velocity a e - s x_0 (Salimans and Ho 2022, section 4), or the target."""
        if self.predicts == "epsilon":
            return noise
        return self.schedule.get_velocity(target, noise, t) if self.predicts == "v_prediction" else target

    def clean(self, noisy: Latents, prediction: Latents, t: Times) -> Latents:
        """Out of any of the three."""
        a, s = self._levels(t, noisy)
        if self.predicts == "epsilon":
            return (noisy - s * prediction) / a
        return a * noisy - s * prediction if self.predicts == "v_prediction" else prediction

    def sampler_settings(self) -> dict[str, Any]:
        """None: samplers read the schedule's configuration."""
        return {}

    def _levels(self, t: Times, like: Latents) -> tuple[Level, Level]:
        variance = self.schedule.alphas_cumprod.to(like)[t.long()][:, None, None, None]
        return variance.sqrt(), (1 - variance).sqrt()


class FlowProcess(AbstractProcess):
    """A straight line from picture to noise: times are the share of noise, times the schedule's length."""

    def __init__(self, schedule: FlowMatchEulerDiscreteScheduler):
        self.schedule = schedule

    def times(self, u: Float[Tensor, " b"], *, shift: float = 1.0) -> Times:
        """Fractional, above 0 and up to `length`: nothing is to be learnt from a picture without noise."""
        return shifted(1 - u, shift) * self.length

    def corrupt(self, target: Latents, noise: Latents, t: Times) -> Latents:
        """Rectified flow (Liu et al. 2023), equation 1, with noise at its end."""
        share = self._share(t, target)
        return (1 - share) * target + share * noise

    def wanted(self, target: Latents, noise: Latents, t: Times) -> Latents:
        """The velocity, the same at all times."""
        del t
        return noise - target

    def clean(self, noisy: Latents, prediction: Latents, t: Times) -> Latents:
        """Back along the line."""
        return noisy - self._share(t, noisy) * prediction

    def sampler_settings(self) -> dict[str, Any]:
        """For samplers that know other processes, too."""
        return {"prediction_type": "flow_prediction", "use_flow_sigmas": True,
                "flow_shift": self.schedule.config.shift}  # fmt: skip

    def _share(self, t: Times, like: Latents) -> Level:
        return (t.to(like) / self.length)[:, None, None, None]


def process_of(config: Mapping[str, Any]) -> AbstractProcess:
    """The process that a scheduler's configuration, of training or of a sampler, belongs to.

    Raises ConfigError for what is none.
    """
    if "flow" in str(config.get("prediction_type", "")) or str(config.get("_class_name")).startswith(
        "FlowMatch"
    ):
        return FlowProcess(FlowMatchEulerDiscreteScheduler.from_config(config))
    return VarianceProcess(DDPMScheduler.from_config(config))


def shifted(u: Float[Tensor, " b"], shift: float) -> Float[Tensor, " b"]:
    """Shares of noise, moved towards noise by a `shift` above 1 (Esser et al. 2024, equation 23)."""
    return shift * u / (1 + (shift - 1) * u)


def start_scale(sampler: Any) -> Any:
    """How large the noise is that a sampler starts from; of flow matching it is standard normal."""
    return getattr(sampler, "init_noise_sigma", 1.0)


def model_input(sampler: Any, latents: Tensor, t: Tensor) -> Tensor:
    """The latents as a denoiser shall see them, of samplers that scale them."""
    return sampler.scale_model_input(latents, t) if hasattr(sampler, "scale_model_input") else latents
