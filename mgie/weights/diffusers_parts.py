"""The diffusion side as others publish it: a diffusers folder, a hub id, or one Stable Diffusion file.

After loading, every tensor equals the file's; only the input of a text-to-image UNet is widened for the
source picture.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel

from mgie.errors import ConfigError, WeightsError
from mgie.models.denoisers.unet import widen
from mgie.weights.release import put, said_as_ours
from mgie.weights.single_file import is_single_file, read_single


def load_diffusion(where: str | Path) -> tuple[UNet2DConditionModel, AutoencoderKL, DDPMScheduler]:
    """UNet (widened where it was made for text alone), VAE and training schedule, in float32.

    `where` is a folder or hub id with unet/, vae/ and scheduler/, or a single file. Raises WeightsError
    that says what is missing, unexpected or of another shape.
    """
    unet, vae = _load(UNet2DConditionModel, str(where), "unet"), load_vae(where)
    check_fit(unet, vae, where)
    return widen(unet), vae, load_scheduler(where)


def load_vae(where: str | Path) -> AutoencoderKL:
    """The VAE alone, in float32. Raises WeightsError."""
    return _load(AutoencoderKL, str(where), "vae")


def empty_unet(where: str | Path) -> UNet2DConditionModel:
    """A UNet without values, on the meta device, that sees a source picture: for weights from elsewhere.

    Only the configuration is read, the weights beside it need not be there. Raises WeightsError.
    """
    try:
        if is_single_file(where):
            with said_as_ours():
                config, _ = read_single(where, "unet")
        else:
            config = dict(UNet2DConditionModel.load_config(str(where), subfolder="unet"))
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config | {"in_channels": 2 * config["out_channels"]})
    except (OSError, TypeError, KeyError) as error:
        raise _absent(str(where), "unet", error) from error


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
    return _load(CLIPTextModel, str(where), "text_encoder")


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
    try:
        return DDPMScheduler.from_pretrained(str(where), subfolder="scheduler")
    except OSError as error:
        raise _absent(str(where), "scheduler", error) from error


def load_sampler(name: str, schedule: DDPMScheduler) -> SchedulerMixin:
    """The diffusers scheduler called `name`, over a training schedule. Raises ConfigError."""
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise ConfigError(
            f"sampling.scheduler is {name!r}: expected a scheduler of diffusers, such as DDIMScheduler."
        )
    return kind.from_config(schedule.config)  # pyright: ignore[reportAttributeAccessIssue] - of ConfigMixin


def _load(kind: Any, where: str, part: str) -> Any:
    if is_single_file(where):
        return _load_single(kind, where, part)
    try:
        model, report = kind.from_pretrained(
            where,
            subfolder=part,
            torch_dtype=torch.float32,
            output_loading_info=True,
            low_cpu_mem_usage=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _absent(where, part, error) from error
    problems = [f"{what.removesuffix('_keys')} {key}" for what, keys in report.items() for key in keys]
    if problems:
        raise WeightsError(
            f"{where}/{part} does not hold what its config.json says: {'; '.join(map(str, problems[:8]))}"
            f"{f' and {len(problems) - 8} more' if len(problems) > 8 else ''}; fetch it again."
        )
    return model


def _load_single(kind: Any, where: str, part: str) -> Any:
    with said_as_ours():
        config, tensors = read_single(where, part)
    with torch.device("meta"):
        model = kind.from_config(config)
    return put(model, tensors, where=f"the {part} in {where}", dtype=torch.float32)


def _absent(where: str, part: str, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())[:200]
    return WeightsError(
        f"{part} cannot be loaded from {where} ({reason}); give a diffusers folder with unet/, vae/ and "
        "scheduler/, a hub id, or a single Stable Diffusion file."
    )
