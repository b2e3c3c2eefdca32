"""Which kind of folder with an editor's weights it is, and all of its parts.

model_index.json of ours      a release, as `mgie extract` writes it
model_index.json of diffusers Stable Diffusion, its XL, InstructPix2Pix
mllm.pt, unet.pt              MGIE as Apple published it, beside LLaVA and a diffusion folder
model.pth                     MIGE as published, beside a diffusion folder
"""

from pathlib import Path

import torch

from mgie.errors import ConfigError
from mgie.weights.apple import MLLM, read_apple
from mgie.weights.mige_part import FILE as MIGE
from mgie.weights.mige_part import read_published
from mgie.weights.release import Release, read_release
from mgie.weights.stable_diffusion import is_stable_diffusion, read_stable_diffusion


def open_folder(
    folder: Path,
    *,
    llava: str | Path | None = None,
    diffusion: str | Path | None = None,
    controller: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    progress: bool = False,
    verify: bool = True,
) -> Release:
    """The parts in a folder, strictly. `llava` and `diffusion` are what published files lack, `controller`
    what a release or Stable Diffusion is to have besides. Raises WeightsError, and ConfigError for what the
    folder has no use for."""
    apples, published = (folder / MLLM).is_file(), (folder / MIGE).is_file() and llava is None
    if controller and (apples or published):
        raise ConfigError("controller is for releases and Stable Diffusion, not for MGIE's and MIGE's files.")
    if apples:
        read = {"attention": attention, "progress": progress, "verify": verify}
        return read_apple(folder, llava=llava, diffusion=diffusion, dtype=dtype, **read)
    if published:
        return read_published(folder, diffusion=diffusion, dtype=dtype, progress=progress)
    if llava or diffusion:
        raise ConfigError(
            f"llava and diffusion are for published files, but {folder} has all parts: leave them out."
        )
    if is_stable_diffusion(folder):
        return read_stable_diffusion(folder, controller=controller, dtype=dtype, progress=progress)
    return read_release(
        folder, controller=controller, dtype=dtype, attention=attention, progress=progress, verify=verify
    )
