"""Folders of Stable Diffusion, XL and InstructPix2Pix, as diffusers has them, as releases.

The words are read by their own text encoder. Stable Diffusion's UNet sees no picture: it paints new ones
(Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022). The safety checker
is not read.
"""

import hashlib
from pathlib import Path

import torch

from llava_patch.folders import file_hash
from llava_patch.loading import Dtypes
from llava_patch.shards import STEMS
from mgie.diffusion.process import process_of
from mgie.errors import WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.editor import Editor
from mgie.weights.clip_part import ClipTextPart
from mgie.weights.controllers import read_controllers
from mgie.weights.diffusers_parts import load_diffusion
from mgie.weights.models import DIFFUSERS_STEM, read_json
from mgie.weights.parts import AbstractEncoderPart, dtype_of
from mgie.weights.release import INDEX, Release, read_scheduler
from mgie.weights.sdxl_part import SdxlTextPart

XL = "StableDiffusionXLPipeline"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionInstructPix2PixPipeline", XL)
"""What an index may name."""
PARTS = ("unet", "vae", "scheduler", *(f"text_encoder{n}" for n in ("", "_2")), "tokenizer", "tokenizer_2")
"""Folders that are read, where they are there."""
STEPS, GUIDANCE, GUIDANCE_XL = 50, 7.5, 5.0
"""How such pipelines sample unless they are told otherwise."""


def is_stable_diffusion(folder: str | Path) -> bool:
    """Whether a folder's index names one of `PIPELINES`. Raises WeightsError for an index that is no JSON."""
    path = Path(folder) / INDEX
    return path.is_file() and read_json(path).get("_class_name") in PIPELINES


def folder_identity(folder: str | Path) -> str:
    """SHA-256 of the files that such a folder is read from: of its index, configurations and weights."""
    digest, folder = hashlib.sha256(), Path(folder)
    for path in sorted({folder / INDEX, *(path for part in PARTS for path in _files(folder / part))}):
        digest.update(f"{path.relative_to(folder)} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def _files(part: Path) -> list[Path]:
    """The small files of a part's folder, and its weights as far as they are read: no other precisions."""
    stem, bins = STEMS if part.name.startswith("text") else (DIFFUSERS_STEM,) * 2
    weights = [*part.glob(f"{stem}.safetensors"), *part.glob(f"{stem}-*.safetensors")]
    weights = weights or [*part.glob(f"{bins}.bin"), *part.glob(f"{bins}-*.bin")]
    return [*weights, *part.glob("*.json"), *part.glob("*.txt")]


def read_stable_diffusion(
    folder: str | Path,
    *,
    dtype: Dtypes = torch.float32,
    progress: bool = False,
    controller: str | Path | None = None,
) -> Release:
    """All parts of such a folder: every tensor equals the file's, and the sampler is its own.

    `controller` is a published file of MIGC or MIGC++, or a controller's folder; such a folder may also lie
    in `folder`, as in a release. Raises WeightsError listing what does not fit.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX)
    found = index.get("_class_name")
    if not is_stable_diffusion(folder):
        raise WeightsError(f"{folder} holds a {found}: expected a {' or a '.join(PIPELINES)}.")
    part: AbstractEncoderPart = SdxlTextPart() if found == XL else ClipTextPart()
    facts = {"silent": index.get("force_zeros_for_empty_prompt", True)} if found == XL else {}
    encoder, prompts = part.load(folder, facts, dtype=dtype)
    unet, vae, schedule = load_diffusion(
        folder,
        dtype=dtype_of(dtype, "denoiser"),
        vae_dtype=dtype_of(dtype, "codec"),
        progress=progress,
        widened=False,
    )
    codec = Codec(vae)
    side = unet.config.sample_size
    sides = [side, side] if isinstance(side, int) else list(side or (64, 64))
    return Release(
        editor=Editor(
            encoder=encoder,
            denoiser=UNetDenoiser(unet),
            codec=codec,
            controllers=read_controllers(folder, controller=controller, dtype=dtype),
        ).eval(),
        prompts=prompts,
        process=process_of(schedule),
        scheduler=read_scheduler(folder / "scheduler"),
        settings={
            "size": max(sides) * codec.space.factor,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE_XL if found == XL else GUIDANCE,
        },
    )
