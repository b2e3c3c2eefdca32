"""Where a model runs and in which type, as a command's options say it."""

from typing import get_args

import torch

from mgie.errors import ConfigError, DeviceError
from mgie.ranges import Dtype


def find_device(name: str | None) -> torch.device:
    """The device called `name`; None: the GPU where there is one. Raises DeviceError if it cannot be used."""
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=chosen).device
    except Exception as error:  # torch has no one type for devices that it was built without
        why = " ".join(str(error).split())[:100]
        raise DeviceError(
            f"device={chosen!r} cannot be used ({why}): expected cpu, or cuda where there is a GPU."
        ) from error
    if device.type == "meta":
        raise DeviceError(f"device={chosen!r} computes nothing: expected cpu, or cuda where there is a GPU.")
    return device


def find_dtype(name: str) -> torch.dtype:
    """The type called `name`. Raises ConfigError if it is none of Dtype."""
    if name not in get_args(Dtype):
        raise ConfigError(f"dtype={name!r}: expected {', '.join(get_args(Dtype))}.")
    return getattr(torch, name)
