"""Adapters of one's own subjects, put on and taken off a denoiser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgie.errors import ConfigError
from mgie.models.adapters import PREFIX, adapter_parameters, wear_adapter
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.personalization.start import start_of
from mgie.personalization.start_options import SubjectStart
from mgie.weights.adapter import Adapter, outline, read_adapter

NAME = "subjects"
"""What adapters are called within the denoiser, with a number."""


def wear(
    denoiser: AbstractDenoiser,
    where: str | Path | Sequence[str | Path],
    *,
    beside: Sequence[Adapter] = (),
    scale: float = 1.0,
) -> tuple[Adapter, ...]:
    """Put on adapters `beside` those that are worn; all of them. Raises WeightsError for one of another
    model, and ConfigError for two that call different things by one name."""
    places = [where] if isinstance(where, (str, Path)) else where
    worn = [*beside]
    for place in places:
        adapter = read_adapter(place)
        for each in adapter.learnt:
            others = [other.name for other in worn for own in other.learnt if own.phrase == each.phrase]
            if others:
                raise ConfigError(
                    f"{others[0]} and {adapter.name} both call a subject {each.phrase!r}: leave one of them "
                    "out."
                )
        wear_adapter(_unet(denoiser, adapter.name), adapter.tensors, name=f"{NAME}{len(worn)}", scale=scale,
                     where=adapter.name)  # fmt: skip
        worn.append(adapter)
    return tuple(worn)


def check_adapters(where: Sequence[str | Path], start: SubjectStart | None, words: str) -> None:
    """Refuse, before weights are read, folders that are no adapters, and a start that words cannot have.
    Raises WeightsError, ConfigError and DataError."""
    start_of(start, [outline(place) for place in where], [words], [0])


def take_off(denoiser: AbstractDenoiser) -> tuple[Adapter, ...]:
    """Take all of them off; none are left."""
    if adapter_parameters(denoiser):
        _unet(denoiser, "").unload_lora()
    return ()


def check_bare(worn: Sequence[Adapter]) -> None:
    """Refuse to write a release of an editor that wears adapters. Raises ConfigError."""
    if worn:
        raise ConfigError(
            f"the editor wears {worn[0].name}: a release has weights of its own; take it off "
            "(unload_subjects), or let `mgie extract` merge the run that trained it."
        )


def _unet(denoiser: AbstractDenoiser, name: str) -> Any:
    """What adapters are put into. Raises ConfigError for a denoiser that is no UNet."""
    unet = getattr(denoiser, PREFIX[:-1], None)
    if unet is None:
        raise ConfigError(
            f"{name} is an adapter of a UNet, and {type(denoiser).__name__} paints here: leave it out, or "
            "take another model."
        )
    return unet
