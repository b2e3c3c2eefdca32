"""Models and schedules of diffusers from their folders, strictly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from torch import nn

from llava_patch.config import CONFIG_FILE
from llava_patch.loading import put, renamed, typed
from llava_patch.shards import each_shard, shard_files
from llava_patch.sizes import no_larger_than
from llava_patch.tokenizer import read_json as read_json_if_there
from mgie.errors import WeightsError

DIFFUSERS_STEM = "diffusion_pytorch_model"
"""How diffusers' files of weights begin."""
LONGEST_SCHEDULE = 100_000
"""Most training steps of a schedule; published ones have 1000, and tables of that length are made at once."""

CODECS = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny, AutoencoderDC)}
"""Autoencoders that stand in a folder `vae`, by the name that their config.json has for them."""
_OLDER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_Module = TypeVar("_Module", bound=nn.Module)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that must be there. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(
            f"{path.parent} has no {path.name}: expected a whole folder; extract or fetch it again."
        )
    return read_json_if_there(path)


def empty_model(
    kind: type[_Module], folder: Path, *, files: Sequence[Path] | None = None, **changes: Any
) -> _Module:
    """A model of diffusers without values, by its config.json but for `changes`. Raises WeightsError.

    `files` are those of its weights, where they are known already: it may not be larger than they are.
    """
    content = read_json(folder / CONFIG_FILE) | changes
    with no_larger_than(files, folder):
        return configured(kind, content, where=folder / CONFIG_FILE)


def configured(kind: type[_Module], content: dict[str, Any], *, where: str | Path) -> _Module:
    """A model of diffusers without values, by a configuration that came from `where`. Raises WeightsError."""
    try:
        with torch.device("meta"):
            model = kind.from_config(content)  # pyright: ignore - of ConfigMixin
        assert isinstance(model, kind)
        return model
    except Exception as error:  # the library and torch have no one type for what does not go together
        raise WeightsError(
            f"{where} describes no {kind.__name__} ({error}): fetch the files of it again."
        ) from error


def codec_kind(folder: Path) -> type[nn.Module]:
    """Which autoencoder a folder holds; Stable Diffusion's where it does not say. Raises WeightsError."""
    name = read_json(folder / CONFIG_FILE).get("_class_name", "AutoencoderKL")
    if name not in CODECS:
        raise WeightsError(
            f"{folder}/{CONFIG_FILE} is of the class {name}: expected one of "
            f"{', '.join(CODECS)}; give another autoencoder."
        )
    return CODECS[name]


def read_model(kind: type[_Module], folder: Path, *, dtype: torch.dtype, progress: bool = False) -> _Module:
    """A model of diffusers from its folder: every tensor equals the file's. Raises WeightsError."""
    stems = (DIFFUSERS_STEM, DIFFUSERS_STEM)
    model = empty_model(kind, folder, files=shard_files(folder, stems=stems))
    shards = renamed(each_shard(folder, progress=progress, stems=stems), _name_today)
    return put(typed(model, dtype), shards, where=folder).eval()


def _name_today(name: str) -> str:
    """Attention of a VAE had other names when Stable Diffusion 1 was published."""
    for old, today in _OLDER.items():
        name = name.replace(old, today)
    return name


def schedule(kind: Any, content: dict[str, Any], where: Path) -> Any:
    """A scheduler of this class by a configuration that came from the file `where`. Raises WeightsError."""
    steps = content.get("num_train_timesteps", 1000)
    try:
        if not 1 <= steps <= LONGEST_SCHEDULE:
            raise ValueError(f"num_train_timesteps is {steps}, expected 1 to {LONGEST_SCHEDULE}")
        return kind.from_config(content)
    except Exception as error:  # the library has no one type for what makes no schedule
        raise WeightsError(f"{where} describes no schedule ({error}): fetch the folder again.") from error
