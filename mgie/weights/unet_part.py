"""Stable Diffusion's UNet, VAE and schedule on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel

from llava_patch.loading import Dtypes
from mgie.diffusion.process import AbstractProcess, process_of
from mgie.errors import WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.weights.diffusers_parts import check_fit, empty_diffusion, load_diffusion, load_text_model
from mgie.weights.models import codec_kind, empty_model, read_model
from mgie.weights.parts import AbstractDenoiserPart, dtype_of, resolve


@dataclass(frozen=True, kw_only=True)
class UNetSettings:
    """What a recipe says of it."""

    kind: Literal["unet"] = "unet"
    diffusion: str
    """Folder, hub id or single file of the diffusion side: UNet, VAE, scheduler."""


class UNetPart(AbstractDenoiserPart):
    """The folders unet/ and vae/."""

    kind = "unet"
    settings = UNetSettings
    makes = UNetDenoiser
    about = (
        "A UNet of Stable Diffusion's kind paints, and sees the picture beside (Brooks et al.,\n"
        "InstructPix2Pix: Learning to Follow Image Editing Instructions, CVPR 2023)."
    )

    def build(
        self, settings: UNetSettings, *, dtype: Dtypes = torch.float32, progress: bool = False
    ) -> tuple[UNetDenoiser, Codec, AbstractProcess]:
        """A UNet that was made for text alone is widened for the source."""
        unet, vae, schedule = load_diffusion(
            resolve(settings.diffusion),
            dtype=dtype_of(dtype, "denoiser"),
            vae_dtype=dtype_of(dtype, "codec"),
            progress=progress,
        )
        return UNetDenoiser(unet), Codec(vae), process_of(schedule)

    def save(self, denoiser: UNetDenoiser, codec: Codec, folder: Path) -> dict[str, Any]:
        """As diffusers writes them."""
        for name, model in (("unet", denoiser.unet), ("vae", codec.vae)):
            model.save_pretrained(folder / name)
        facts = {"source_scaled": codec.space.source_scaled}
        return facts if denoiser.sees_source else facts | {"sees_source": False}

    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[UNetDenoiser, Codec]:
        """Read strictly."""
        painting, coding = dtype_of(dtype, "denoiser"), dtype_of(dtype, "codec")
        unet = read_model(UNet2DConditionModel, folder / "unet", dtype=painting, progress=progress)
        vae = read_model(codec_kind(folder / "vae"), folder / "vae", dtype=coding, progress=progress)
        check_fit(unet, vae, folder)
        if unet.config.in_channels == unet.config.out_channels and facts.get("sees_source", True):
            raise WeightsError(
                f"{folder}: the UNet takes {unet.config.in_channels} channels, as many as it paints: "
                "expected twice as many, for the source beside it; extract or fetch the release again."
            )
        return UNetDenoiser(unet), Codec(vae, source_scaled=bool(facts.get("source_scaled")))

    def empty(self, folder: Path, facts: dict[str, Any]) -> tuple[UNetDenoiser, Codec]:
        """From the two config.json."""
        del facts
        unet = empty_model(UNet2DConditionModel, folder / "unet")
        vae = empty_model(codec_kind(folder / "vae"), folder / "vae")
        return UNetDenoiser(unet), Codec(vae)

    def sizes(self, settings: UNetSettings) -> tuple[UNetDenoiser, Codec, AbstractProcess]:
        """From the small files of its folder."""
        unet, vae, schedule = empty_diffusion(resolve(settings.diffusion))
        return UNetDenoiser(unet), Codec(vae), process_of(schedule)

    def text_model(self, settings: UNetSettings) -> Any:
        """That of the same folder."""
        return load_text_model(resolve(settings.diffusion))
