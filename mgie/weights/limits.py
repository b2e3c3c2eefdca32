"""What an editor can be asked for, told before its weights are read. By its small files.

The pipeline asks the same of the parts that it holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from mgie.errors import ConfigError, WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.weights.models import read_json
from mgie.weights.release import INDEX, parts_of, read_index
from mgie.weights.stable_diffusion import is_stable_diffusion
from mgie.weights.unet_part import UNetPart

HELD = 3
"""Tensors of the widest layer at the picture's own size that are in memory at once, at least."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far the options of one editor go."""

    steps: int
    """Steps of the training schedule: sampling cannot take more."""
    multiple: int
    """What the sides of an edited picture are multiples of: the codec's factor times the UNet's."""
    numbers: int
    """Numbers that are held at least for every pixel of an edited picture."""

    @classmethod
    def of(cls, denoiser: AbstractDenoiser, codec: Codec, schedule: Mapping[str, Any]) -> "Limits":
        """Those of these parts and a scheduler's configuration."""
        factor = codec.space.factor
        return cls(
            steps=int(schedule["num_train_timesteps"]),
            multiple=factor * denoiser.multiple,
            numbers=int(HELD * max(codec.numbers, denoiser.numbers / factor**2)),
        )

    def check(self, *, steps: int | None, size: int | None) -> None:
        """Refuse steps and sizes that cannot be, where they are given. Raises ConfigError."""
        if steps is not None and steps > self.steps:
            raise ConfigError(
                f"steps={steps}: expected at most {self.steps}, as many as the editor was trained with."
            )
        if size is not None and size < self.multiple:
            raise ConfigError(f"size={size}: expected at least {self.multiple} pixels for this editor.")

    def check_memory(self, pixels: int, *, dtype: torch.dtype, device: torch.device) -> None:
        """Refuse so many pixels in all as surely do not fit into what is free. Raises ConfigError."""
        needed, free = pixels * self.numbers * dtype.itemsize, free_memory(device)
        if needed > free:
            side = int((free / needed * pixels) ** 0.5)
            raise ConfigError(
                f"pictures of {pixels} pixels in all need at least {_told(needed)} of memory, and "
                f"{_told(free)} are free: choose a smaller size (nothing above {side} x {side} could fit) or "
                "fewer at a time."
            )


def check_release(
    model: str | Path,
    *,
    steps: int | None,
    size: int | None,
    pictures: int,
    dtype: torch.dtype,
    device: torch.device,
) -> bool | None:
    """Refuse, before weights are read, what a release on disk cannot do; whether it sees the picture before
    an edit. Raises ConfigError and WeightsError.

    Of a hub id or of Apple's files too little is known (None); the pipeline asks again.
    """
    folder = Path(model)
    if not (folder / INDEX).is_file():
        return None
    if is_stable_diffusion(folder):
        parts = UNetPart().empty(folder, {})
    else:
        _, (part, facts) = parts_of(read_index(folder), folder)
        parts = part.empty(folder, facts)
    if parts is None:
        return None
    try:
        limits = Limits.of(*parts, read_json(folder / "scheduler" / "scheduler_config.json"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"{folder}/scheduler does not say how long it is ({type(error).__name__}: {error}); "
            "extract or fetch the release again."
        ) from error
    limits.check(steps=steps, size=size)
    if size is not None:
        limits.check_memory(pictures * size**2, dtype=dtype, device=device)
    return parts[0].sees_source


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device now; of one that does not tell, the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _told(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
