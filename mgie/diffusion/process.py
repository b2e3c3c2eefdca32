"""How pictures are corrupted, what is predicted, how times are drawn, what samples.

x_t = a x_0 + s e, with e standard normal. Four cases of one interface: noise, velocity or picture predicted
on a schedule of variances (Ho et al. 2020; Salimans and Ho 2022), and flow matching (Lipman et al. 2023),
where a = 1 - s and what is predicted is e - x_0.
"""

import copy
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int
from torch import Tensor

from mgie.diffusion.solver import scheduler_class
from mgie.errors import ConfigError, DataError
from mgie.types import Guess

Latents = Float[Tensor, "b c h w"]
Times = Int[Tensor, " b"] | Float[Tensor, " b"]
Level = Float[Tensor, "b 1 1 1"]

Predict = Callable[..., Guess]
"""(noisy, t, ...) -> Guess: a denoiser."""
Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]

FEW, NEAR = 5, 0.1
"""In so few steps a sampler of the process comes so near, on the average, to a picture of values in [-1, 1]
that its denoiser knows. Measured in 1 to 5 steps with all of diffusers' samplers, over Stable Diffusion's
schedule (with zero terminal SNR, too), a linear one, a cosine one and flows: those that fit stay below 0.085,
the noise that some of them leave in; the others end 0.11 away or farther."""


class AbstractProcess(ABC):
    """One way from pictures to noise and back, over a training schedule of diffusers."""

    kind: ClassVar[str]
    """Its name in releases."""
    schedules: ClassVar[Any]
    """Class of its training schedules."""
    schedule: Any
    """A diffusers scheduler: what a release keeps of the process."""

    @abstractmethod
    def __init__(self, schedule: Any):
        """Raises ConfigError for a schedule of another kind."""

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
    def min_snr(self, t: Times, gamma: float, like: Latents) -> Float[Tensor, " b"]:
        """What the error at the times `t` is multiplied by: min(SNR, gamma) of the error of the picture that
        a prediction stands for, whatever is predicted (Hang et al. 2023, section 3.4); SNR is a^2 / s^2."""

    @abstractmethod
    def clean(self, noisy: Latents, prediction: Latents, t: Times) -> Latents:
        """The picture that a prediction stands for."""

    def steps(
        self, sampler: Any, count: int, *, tokens: int, device: torch.device | str | None = None
    ) -> Any:
        """`sampler` with its times set for so many steps over latents at `tokens` places."""
        del tokens
        sampler.set_timesteps(count, device=device)
        return sampler

    @abstractmethod
    def sampler_settings(self) -> dict[str, Any]:
        """What a sampler must be told, for what is left to defaults differs between samplers."""

    def sampler(self, name: str, *, steps: int = FEW) -> Any:
        """The diffusers scheduler called `name` over this process.

        Raises ConfigError where there is none, where it cannot sample in so many steps as an editor does, and
        where it is a sampler of another process: it must paint a picture that the denoiser knows.
        """
        kind = scheduler_class(name)
        if kind is None:
            raise ConfigError(
                f"sampling.scheduler is {name!r}: expected a scheduler of diffusers, such as DDIMScheduler."
            )
        known = inspect.signature(kind.__init__).parameters
        settings = {key: value for key, value in self.sampler_settings().items() if key in known}
        try:
            # What the library warns of is no reason to refuse.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._try_out(lambda: kind.from_config(self.schedule.config, **settings), steps)
        except (
            Exception
        ) as error:  # the library has no one type for what makes no schedule, or lacks a package
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise ConfigError(
                f"sampling.scheduler={name} with sampling.steps={steps} cannot sample here ({reason}): "
                f"expected a scheduler such as {self.schedules.__name__}, and from 1 step to as many as the "
                "training schedule has."
            ) from error
        return kind.from_config(self.schedule.config, **settings)

    def fitting(self, sampler: Any) -> Any:
        """`sampler`, or the same with another `prediction_type`, where it does not know its own: `told_as`
        translates. Raises ConfigError for a sampler of another process or schedule."""
        kinds = [
            kind for kind in ("epsilon", "v_prediction", "sample") if "prediction_type" in sampler.config
        ]
        tries = [
            sampler,
            *(type(sampler).from_config(sampler.config, prediction_type=kind) for kind in kinds),
        ]
        first: Exception | None = None
        for each in tries:
            try:
                with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._try_out(lambda own=each: copy.deepcopy(own), FEW)
                return each
            except Exception as error:  # the library has no one type for what it does not know
                first = first or error
        reason = " ".join(str(first).split())[:200].rstrip(".") or type(first).__name__
        raise ConfigError(
            f"{type(sampler).__name__} cannot sample what this editor predicts ({reason}): expected one made "
            "by `from_config(pipeline.scheduler.config)` of a scheduler of diffusers."
        ) from first

    def told_as(self, predict: Predict, sampler: Any) -> Predict:
        """What predicts, in the terms that `sampler` is told of by its `prediction_type`."""
        kind = sampler.config.get("prediction_type")
        if kind is None or kind == getattr(self, "predicts", kind):
            return predict

        def told(noisy: Tensor, t: Tensor, *rest: Any) -> Guess:
            guess = predict(noisy, t, *rest)
            return replace(guess, mean=self.said_as(guess.mean, noisy, t, kind))

        return told

    @abstractmethod
    def said_as(self, prediction: Latents, noisy: Latents, t: Times, kind: str) -> Latents:
        """A prediction in the terms of another `kind`."""

    def _try_out(self, new: Callable[[], Any], steps: int) -> None:
        """Two steps of so many, then all of a few, with a denoiser that knows the picture."""
        rng = torch.Generator().manual_seed(0)
        picture, noise = torch.rand(1, 4, 8, 8, generator=rng) * 2 - 1, torch.randn(1, 4, 8, 8, generator=rng)
        for count, taken in ((steps, 2), (min(steps, FEW), None)):
            sampler = self.steps(new(), count, tokens=64)
            latents = noise * start_scale(sampler)
            for t in sampler.timesteps[:taken]:
                seen, at = model_input(sampler, latents, t), t.reshape(1)
                answer, kind = self._known(picture, seen, at), sampler.config.get("prediction_type")
                if kind is not None and kind != getattr(self, "predicts", kind):
                    answer = self.said_as(answer, seen, at, kind)
                latents = sampler.step(answer, t, latents, return_dict=False)[0]
        away = (latents - picture).abs().mean()
        if not away <= NEAR:
            raise ValueError(
                f"it ends {away:.2g} away from a picture that its denoiser knows: another process's"
            )

    def _known(self, picture: Latents, noisy: Latents, t: Times) -> Latents:
        """What somebody says who knows the picture."""
        one, none = torch.ones_like(picture), torch.zeros_like(picture)
        kept, share = self.corrupt(one, none, t), self.corrupt(none, one, t)
        return self.wanted(picture, (noisy - kept * picture) / share.clamp(min=1e-6), t)


class VarianceProcess(AbstractProcess):
    """A schedule of variances, a^2 + s^2 = 1, that says whether noise, velocity or picture is predicted."""

    kind = "variance"
    schedules = DDPMScheduler

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
        a, s = self._levels(t, target)
        return a * target + s * noise

    def wanted(self, target: Latents, noise: Latents, t: Times) -> Latents:
        """Noise, the velocity a e - s x_0 (Salimans and Ho 2022, section 4), or the target."""
        if self.predicts == "epsilon":
            return noise
        if self.predicts == "sample":
            return target
        a, s = self._levels(t, target)
        return a * noise - s * target

    def min_snr(self, t: Times, gamma: float, like: Latents) -> Float[Tensor, " b"]:
        """min(SNR, gamma) for a picture; over SNR for noise, over SNR + 1 for the velocity."""
        a, s = self._levels(t, like)
        ratio = (a / s).square().flatten()
        if self.predicts == "epsilon":
            return (gamma / ratio).clamp(max=1)
        return ratio.clamp(max=gamma) / (1 if self.predicts == "sample" else ratio + 1)

    def clean(self, noisy: Latents, prediction: Latents, t: Times) -> Latents:
        """Out of any of the three."""
        a, s = self._levels(t, noisy)
        if self.predicts == "epsilon":
            return (noisy - s * prediction) / a
        return a * noisy - s * prediction if self.predicts == "v_prediction" else prediction

    def said_as(self, prediction: Latents, noisy: Latents, t: Times, kind: str) -> Latents:
        """Any of the three as any other."""
        a, s = self._levels(t, noisy)
        clean = self.clean(noisy, prediction, t)
        if kind == "sample":
            return clean
        if self.predicts == "epsilon":
            noise = prediction
        else:  # of a velocity without dividing by the share of noise, which is small near the picture
            velocity = self.predicts == "v_prediction"
            noise = s * noisy + a * prediction if velocity else (noisy - a * clean) / s
        return noise if kind == "epsilon" else a * noise - s * clean

    def sampler_settings(self) -> dict[str, Any]:
        """What makes the table of variances, and what is predicted."""
        names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
                 "rescale_betas_zero_snr", "prediction_type")  # fmt: skip
        return {name: self.schedule.config[name] for name in names}

    def _levels(self, t: Times, like: Latents) -> tuple[Level, Level]:
        """a and s; between two entries of the table the variance is interpolated. Raises DataError."""
        # Kept on the device, as the library does: no step waits for a copy.
        self.schedule.alphas_cumprod = self.schedule.alphas_cumprod.to(like.device)
        table = self.schedule.alphas_cumprod.to(like.dtype)
        if t.is_floating_point() and not (t.min() >= 0 and t.max() <= self.length - 1):
            raise DataError(
                f"the schedule has no time {t.max().item():g}: expected 0 to {self.length - 1}; leave "
                "others out."
            )
        variance = table[t.long()]
        if t.is_floating_point():
            variance = torch.lerp(variance, table[t.ceil().long()], t.frac().to(like))
        variance = variance[:, None, None, None]
        return variance.sqrt(), (1 - variance).sqrt()


class FlowProcess(AbstractProcess):
    """A straight line from picture to noise: times are the share of noise, times the schedule's length."""

    kind = "flow"
    schedules = FlowMatchEulerDiscreteScheduler

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

    def min_snr(self, t: Times, gamma: float, like: Latents) -> Float[Tensor, " b"]:
        """The picture is x_t - s u, so its error is s^2 times that of the velocity."""
        share = self._share(t, like).flatten()
        return share.square() * ((1 - share) / share).square().clamp(max=gamma)

    def clean(self, noisy: Latents, prediction: Latents, t: Times) -> Latents:
        """Back along the line."""
        return noisy - self._share(t, noisy) * prediction

    def said_as(self, prediction: Latents, noisy: Latents, t: Times, kind: str) -> Latents:
        """A flow is told in one way."""
        del noisy, t, kind
        return prediction

    def sampler_settings(self) -> dict[str, Any]:
        """For samplers that know other processes, too."""
        config = self.schedule.config
        return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": config.shift,
                "shift": config.shift, "num_train_timesteps": config.num_train_timesteps}  # fmt: skip

    def steps(
        self, sampler: Any, count: int, *, tokens: int, device: torch.device | str | None = None
    ) -> Any:
        """With a dynamic shift, the more places there are, the longer it stays near noise (Flux)."""
        config = self.schedule.config
        if not sampler.config.get("use_dynamic_shifting"):
            return super().steps(sampler, count, tokens=tokens, device=device)
        least, most = config.base_image_seq_len, config.max_image_seq_len
        share = (tokens - least) / (most - least)
        mu = config.base_shift + (config.max_shift - config.base_shift) * share
        sampler.set_timesteps(count, mu=mu, device=device)
        return sampler

    def _share(self, t: Times, like: Latents) -> Level:
        return (t.to(like) / self.length)[:, None, None, None]


PROCESSES: Mapping[str, type[AbstractProcess]] = {each.kind: each for each in (VarianceProcess, FlowProcess)}


def process_of(scheduler: Any) -> AbstractProcess:
    """The process that a scheduler, of training or a sampler, is most likely of, where nobody has noted it.

    Raises ConfigError for what is none.
    """
    config = scheduler.config
    name = str(config.get("_class_name", type(scheduler).__name__))
    if "flow" in str(config.get("prediction_type", "")) or name.startswith("FlowMatch"):
        return FlowProcess(FlowMatchEulerDiscreteScheduler.from_config(config))
    return VarianceProcess(DDPMScheduler.from_config(config))


def predicting(process: AbstractProcess, prediction: Prediction | None) -> AbstractProcess:
    """The process with another prediction, over the same schedule; None: as it is.

    Raises ConfigError for what cannot be predicted there.
    """
    if prediction is None or prediction == getattr(process, "predicts", "flow"):
        return process
    if prediction == "flow":
        return FlowProcess(FlowMatchEulerDiscreteScheduler(num_train_timesteps=process.length))
    if not isinstance(process, VarianceProcess):
        raise ConfigError(
            f"train.loss.prediction={prediction} for a denoiser of flow matching, which has no schedule of "
            "variances: expected flow; leave it out."
        )
    if prediction == "epsilon" and not process.schedule.alphas_cumprod[-1] > 0:
        raise ConfigError(
            "train.loss.prediction=epsilon on a schedule that ends in noise alone, of which no picture can "
            "be told: expected v_prediction or sample."
        )
    return VarianceProcess(DDPMScheduler.from_config(process.schedule.config, prediction_type=prediction))


def shifted(u: Float[Tensor, " b"], shift: float) -> Float[Tensor, " b"]:
    """Shares of noise, moved towards noise by a `shift` above 1 (Esser et al. 2024, equation 23)."""
    return shift * u / (1 + (shift - 1) * u)


def start_scale(sampler: Any) -> Any:
    """How large the noise is that a sampler starts from; of flow matching it is standard normal."""
    return getattr(sampler, "init_noise_sigma", 1.0)


def model_input(sampler: Any, latents: Tensor, t: Tensor) -> Tensor:
    """The latents as a denoiser shall see them, of samplers that scale them."""
    return sampler.scale_model_input(latents, t) if hasattr(sampler, "scale_model_input") else latents
