"""The diffusion side as others publish it: a folder, a hub id, or one file.

After loading, every tensor equals the file's; only the input of a text-to-image UNet is widened for the
source picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from llava_patch.config import CONFIG_FILE, checked
from llava_patch.loading import put, renamed, typed
from llava_patch.shards import STEMS, each_shard, shard_files
from llava_patch.sizes import no_larger_than
from llava_patch.weights import is_constant
from mgie.errors import ConfigError, WeightsError
from mgie.models.denoisers.unet import widen
from mgie.weights.models import (
    DIFFUSERS_STEM,
    codec_kind,
    configured,
    empty_model,
    read_json,
    read_model,
    schedule,
)
from mgie.weights.single_file import is_single_file, read_single


def load_diffusion(
    where: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype | None = None,
    progress: bool = False,
    widened: bool = True,
) -> tuple[UNet2DConditionModel, Any, DDPMScheduler]:
    """UNet (widened where it was made for text alone), VAE and training schedule, in `dtype`.

    `vae_dtype` is the VAE's where it has another one. Not `widened`, the UNet stays as it is.
    `where` is a folder or hub id with unet/, vae/ and scheduler/, or a single file. Raises WeightsError
    that says what is missing, unexpected or of another shape.
    """
    scheduler, vae = load_scheduler(where), load_vae(where, dtype=vae_dtype or dtype, progress=progress)
    unet = _load(UNet2DConditionModel, where, "unet", dtype, progress)
    check_fit(unet, vae, where)
    return widen(unet) if widened else unet, vae, scheduler


def load_vae(where: str | Path, *, dtype: torch.dtype = torch.float32, progress: bool = False) -> Any:
    """The VAE alone. Raises WeightsError."""
    return _load(AutoencoderKL, where, "vae", dtype, progress)


def empty_unet(where: str | Path) -> UNet2DConditionModel:
    """A UNet without values, on the meta device, that sees a source picture: for weights from elsewhere.

    Only the configuration is read, the weights beside it need not be there. Raises WeightsError.
    """
    if is_single_file(where):
        config, _ = read_single(where, "unet")
        config["in_channels"] = 2 * config["out_channels"]
        return configured(UNet2DConditionModel, config, where=where)
    folder = _folder(where, "unet", stems=None)
    with _of(where, "unet"):
        channels = empty_model(UNet2DConditionModel, folder).config.out_channels
        return empty_model(UNet2DConditionModel, folder, in_channels=2 * channels)


def empty_diffusion(
    where: str | Path,
) -> tuple[UNet2DConditionModel, Any, DDPMScheduler]:
    """What `load_diffusion` gives, without values and on the meta device. Raises WeightsError, also for a
    single file, whose VAE has no configuration beside it."""
    if is_single_file(where):
        raise WeightsError(f"{where} tells its sizes only with its weights: give a diffusers folder.")
    folder = _folder(where, "vae", stems=None)
    return empty_unet(where), empty_model(codec_kind(folder), folder), load_scheduler(where)


def check_fit(unet: UNet2DConditionModel, vae: Any, where: str | Path) -> None:
    """Refuse a UNet and a VAE of different latents. Raises WeightsError."""
    channels = unet.config.out_channels
    if vae.config.latent_channels != channels or unet.config.in_channels not in (channels, 2 * channels):
        raise WeightsError(
            f"{where}: the UNet takes {unet.config.in_channels} and paints {channels} channels, the VAE has "
            f"{vae.config.latent_channels}: expected a UNet that takes {vae.config.latent_channels} or "
            "twice as many; use parts that belong together."
        )


def load_text_model(
    where: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    part: str = "text_encoder",
    makes: Any = CLIPTextModel,
) -> Any:
    """A text encoder that the UNet was trained with, in the folder `part`. Raises WeightsError.

    It is not read from a single file.
    """
    if is_single_file(where):
        raise WeightsError(f"the text encoder in {where} is not read: give a diffusers folder with {part}/.")
    folder = _folder(where, part, stems=STEMS)
    with _of(where, part):
        config = checked(CLIPTextConfig, read_json(folder / CONFIG_FILE))
        with no_larger_than(shard_files(folder), folder):
            try:
                with torch.device("meta"):
                    model = makes(config)
            except Exception as error:  # the library has no one type for sizes that do not go together
                raise WeightsError(
                    f"{folder}/{CONFIG_FILE} describes no text encoder ({error}): fetch the folder again."
                ) from error
        places = torch.arange(config.max_position_embeddings)[None]
        inside = makes is not CLIPTextModel  # the projection lies beside it
        text = model.text_model if inside else model
        text.embeddings.register_buffer("position_ids", places, persistent=False)
        shards = renamed(each_shard(folder, progress=False), _kept if inside else _of_text)
        return put(typed(model, dtype), shards, where=folder).eval()


def _of_text(name: str) -> str | None:
    """The name of a text encoder's tensor without its older beginning. None: a constant."""
    return None if is_constant(name) else name.removeprefix("text_model.")


def _kept(name: str) -> str | None:
    """The name of a tensor as it is. None: a constant."""
    return None if is_constant(name) else name


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
    config = _folder(where, "scheduler", stems=None) / "scheduler_config.json"
    with _of(where, "scheduler"):
        return schedule(DDPMScheduler, read_json(config), config)


def _load(kind: Any, where: str | Path, part: str, dtype: torch.dtype, progress: bool) -> Any:
    if is_single_file(where):
        config, tensors = read_single(where, part)
        model = typed(configured(kind, config, where=where), dtype)
        return put(model, [(where, tensors)], where=f"the {part} in {where}").eval()
    folder = _folder(where, part)
    with _of(where, part):
        kind = codec_kind(folder) if part == "vae" else kind
        return read_model(kind, folder, dtype=dtype, progress=progress)


def _folder(
    where: str | Path, part: str, *, stems: tuple[str, str] | None = (DIFFUSERS_STEM, DIFFUSERS_STEM)
) -> Path:
    """The folder of a part, fetched first where a hub id is given. Raises WeightsError.

    `stems` is how its files of weights begin, safetensors and pickles; None: only its small files are wanted.
    """
    if Path(where).is_dir():
        if not (Path(where) / part).is_dir():
            raise _absent(where, part, f"it has no folder {part}")
        return Path(where) / part
    # The hub's client is a dependency of diffusers; it answers from its cache without a network.
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(where), allow_patterns=[f"{part}/*.json"])) / part
        for stem, suffix in zip(stems or (), (".safetensors", ".bin")):
            # By whole names: beside them lie the same weights in other precisions.
            names = [f"{part}/{stem}{suffix}", f"{part}/{stem}-*{suffix}"]
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
    except (ConfigError, WeightsError) as error:
        raise WeightsError(f"{part} cannot be loaded from {where}: {error}") from error


def _absent(where: str | Path, part: str, reason: str) -> WeightsError:
    return WeightsError(
        f"{part} cannot be loaded from {where} ({reason}); give a diffusers folder with unet/, vae/ and "
        "scheduler/, a hub id, or a single Stable Diffusion file."
    )
