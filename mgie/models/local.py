"""Models of transformers in local folders: whole or not at all, and nothing is fetched."""

import json
from pathlib import Path
from typing import Any

import torch

from mgie.errors import WeightsError


def model_folder(folder: str | Path, option: str, example: str) -> Path:
    """A folder with a model, as the value of an option. Raises WeightsError for one that is none."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise WeightsError(
            f"{folder} is no model folder (it has no config.json): --{option} expects a local folder with a "
            f"model that transformers wrote, such as a download of {example}."
        )
    return path


def kind_of(folder: Path) -> str:
    """What transformers calls the kind of model in a folder. Raises WeightsError."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{folder / 'config.json'} does not say what kind of model it is for: expected a transformers "
            "folder's, with model_type; download it again."
        ) from error


def loaded(kind: type, folder: Path, **options: Any) -> Any:
    """The whole model, in float32: one with a tensor missing would give numbers all the same."""
    settings = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, found = read(kind, folder, **settings, **options)
    wrong = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if wrong:
        raise WeightsError(
            f"{folder} lacks {len(wrong)} tensors of a {kind.__name__} ({', '.join(sorted(wrong)[:3])}): "
            "expected a whole transformers folder of that model; download it again."
        )
    return model.eval()


def read(kind: type, folder: Path, **options: Any) -> Any:
    """What a class of transformers reads from a folder. Raises WeightsError for whatever it cannot."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)  # type: ignore[attr-defined]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{folder} cannot be read as a {kind.__name__} ({reason}): expected a whole transformers folder, "
            "with config.json, model.safetensors and what prepares pictures and words for it."
        ) from error
