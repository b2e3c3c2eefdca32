"""The diffusion side as others publish it: a diffusers folder, a hub id, or one Stable Diffusion file.

After loading, every tensor equals the file's; only the input of a text-to-image UNet is widened for the
source picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel

from mgie.errors import ConfigError, WeightsError
from mgie.models.denoisers.unet import widen
from mgie.weights.release import DIFFUSERS_STEM, empty_model, put, read_json, read_model, schedule
from mgie.weights.single_file import is_single_file, read_single


def load_diffusion(
    where: str | Path, *, progress: bool = False
) -> tuple[UNet2DConditionModel, AutoencoderKL, DDPMScheduler]:
    """UNet (widened where it was made for text alone), VAE and training schedule, in float32.

    `where` is a folder or hub id with unet/, vae/ and scheduler/, or a single file. Raises WeightsError
    that says what is missing, unexpected or of another shape.
    """
    scheduler, vae = load_scheduler(where), load_vae(where, progress=progress)
    unet = _load(UNet2DConditionModel, where, "unet", progress)
    check_fit(unet, vae, where)
    return widen(unet), vae, scheduler


def load_vae(where: str | Path, *, progress: bool = False) -> AutoencoderKL:
    """The VAE alone, in float32. Raises WeightsError."""
    return _load(AutoencoderKL, where, "vae", progress)


def empty_unet(where: str | Path) -> UNet2DConditionModel:
    """A UNet without values, on the meta device, that sees a source picture: for weights from elsewhere.

    Only the configuration is read, the weights beside it need not be there. Raises WeightsError.
    """
    if is_single_file(where):
        config, _ = read_single(where, "unet")
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config | {"in_channels": 2 * config["out_channels"]})
    folder = _folder(where, "unet", weights=False)
    with _of(where, "unet"):
        channels = empty_model(UNet2DConditionModel, folder).config.out_channels
        return empty_model(UNet2DConditionModel, folder, in_channels=2 * channels)


def check_fit(unet: UNet2DConditionModel, vae: AutoencoderKL, where: str | Path) -> None:
    """Refuse a UNet and a VAE of different latents. Raises WeightsError."""
    channels = unet.config.out_channels
    if vae.config.latent_channels != channels or unet.config.in_channels not in (channels, 2 * channels):
        raise WeightsError(
            f"{where}: the UNet takes {unet.config.in_channels} and paints {channels} channels, the VAE has "
            f"{vae.config.latent_channels}: expected a UNet that takes {vae.config.latent_channels} or "
            "twice as many; use parts that belong together."
        )


def load_text_model(where: str | Path) -> CLIPTextModel:
    """The text encoder that the UNet was trained with, in float32. Raises WeightsError.

    It is not read from a single file.
    """
    if is_single_file(where):
        raise WeightsError(
            f"the text encoder in {where} is not read: give a diffusers folder with text_encoder/."
        )
    kind: Any = CLIPTextModel
    try:
        model, report = kind.from_pretrained(
            str(where), subfolder="text_encoder", torch_dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _absent(where, "text_encoder", " ".join(str(error).split())[:200]) from error
    problems = [f"{what.removesuffix('_keys')} {key}" for what, keys in report.items() for key in keys]
    if problems:
        raise WeightsError(
            f"{where}/text_encoder does not hold what its config.json says: "
            f"{'; '.join(map(str, problems))}; fetch it again."
        )
    return model


def load_scheduler(where: str | Path) -> DDPMScheduler:
    """The training schedule of a diffusers folder; Stable Diffusion's for a single file."""
    if is_single_file(where):
        return DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            num_train_timesteps=1000,
            clip_sample=False,
        )
    folder = _folder(where, "scheduler", weights=False)
    with _of(where, "scheduler"):
        return schedule(DDPMScheduler, read_json(folder / "scheduler_config.json"), folder)


def load_sampler(name: str, schedule: DDPMScheduler, *, steps: int = 1) -> SchedulerMixin:
    """The diffusers scheduler called `name`, over a training schedule.

    Raises ConfigError where there is none, or where it cannot sample in so many steps as an editor does.
    """
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise ConfigError(
            f"sampling.scheduler is {name!r}: expected a scheduler of diffusers, such as DDIMScheduler."
        )
    new: Any = partial(kind.from_config, schedule.config)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with torch.random.fork_rng(devices=[]):
            sampler, latents = new(), torch.zeros(1, 4, 8, 8)
            sampler.set_timesteps(steps)
            latents = latents * sampler.init_noise_sigma
            for t in sampler.timesteps[:2]:
                noisy = sampler.scale_model_input(latents, t)
                latents = sampler.step(noisy, t, latents, return_dict=False)[0]
        if not len(sampler.timesteps):
            raise ValueError("no step at all")
    except Exception as error:  # the library has no one type for what makes no schedule, or lacks a package
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"sampling.scheduler={name} with sampling.steps={steps} cannot sample here ({reason}): expected "
            "a scheduler such as DDIMScheduler, and from 1 step to as many as the training schedule has."
        ) from error
    return new()


def _load(kind: Any, where: str | Path, part: str, progress: bool) -> Any:
    if is_single_file(where):
        config, tensors = read_single(where, part)
        with torch.device("meta"):
            model = kind.from_config(config)
        return put(model, tensors, where=f"the {part} in {where}", dtype=torch.float32)
    folder = _folder(where, part)
    with _of(where, part):
        return read_model(kind, folder, dtype=torch.float32, progress=progress)


def _folder(where: str | Path, part: str, *, weights: bool = True) -> Path:
    """The folder of a part, fetched first where a hub id is given. Raises WeightsError."""
    if Path(where).is_dir():
        if not (Path(where) / part).is_dir():
            raise _absent(where, part, f"it has no folder {part}")
        return Path(where) / part
    # The hub's client is a dependency of diffusers; it answers from its cache without a network.
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(where), allow_patterns=[f"{part}/*.json"])) / part
        for suffix in (".safetensors", ".bin") if weights else ():
            # By whole names: beside them lie the same weights in other precisions.
            names = [f"{part}/{DIFFUSERS_STEM}{suffix}", f"{part}/{DIFFUSERS_STEM}-*{suffix}"]
            folder = Path(snapshot_download(str(where), allow_patterns=[f"{part}/*.json", *names])) / part
            if any(folder.glob(f"*{suffix}")):
                break
    except Exception as error:  # the client's own types of errors differ between versions
        reason = f"there is no such folder, and the hub does not give it: {type(error).__name__}"
        raise _absent(where, part, reason) from error
    return folder


@contextmanager
def _of(where: str | Path, part: str) -> Iterator[None]:
    """Errors of one part as errors of the whole."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{part} cannot be loaded from {where}: {error}") from error


def _absent(where: str | Path, part: str, reason: str) -> WeightsError:
    return WeightsError(
        f"{part} cannot be loaded from {where} ({reason}); give a diffusers folder with unet/, vae/ and "
        "scheduler/, a hub id, or a single Stable Diffusion file."
    )
