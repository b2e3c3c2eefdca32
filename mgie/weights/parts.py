"""The door for parts on disk: built from a recipe, saved into a release, read from it.

A kind is a subclass of one of the two classes here. mgie's own are imported when their name is asked for;
others when whoever has them imports them, or when an installed package names its module as an entry point of
the group `mgie.parts`. A release only ever says a name, and never what to import.
"""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from llava_patch.loading import Dtypes
from mgie.diffusion.process import AbstractProcess
from mgie.errors import ConfigError
from mgie.models.codec import Codec
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.prompts import AbstractPrompts, Compat

OWN = tuple(f"mgie.weights.{kind}_part" for kind in ("llava", "clip", "sdxl", "unet", "mige"))
"""Modules of our own kinds."""
GROUP = "mgie.parts"
"""Entry points of installed packages."""
RECIPES = Path(__file__).parents[1] / "recipes"
BUILTIN = "builtin:"
"""Prefix of a path that lies beside the recipes, inside the package."""

_Door = TypeVar("_Door", bound="AbstractPart")


class AbstractPart(ABC):
    """What both doors have."""

    kind: ClassVar[str]
    """Its name in recipes and releases."""
    settings: ClassVar[type]
    """Dataclass of its keys in a recipe; `kind` is one of them."""
    makes: ClassVar[type]
    """Class of what is built."""
    about: ClassVar[str] = ""
    """A sentence for the cards of releases: what it does, and whose idea it was."""


class AbstractEncoderPart(AbstractPart):
    """A kind of encoder, with the prompts that belong to it."""

    @abstractmethod
    def build(
        self,
        settings: Any,
        *,
        condition_width: int,
        seed: int,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[AbstractInstructionEncoder, AbstractPrompts]:
        """What a recipe's settings say; what is new in it is drawn from `seed`. Raises WeightsError."""

    def sizes(self, settings: Any, *, condition_width: int) -> AbstractInstructionEncoder:
        """What `build` gives, on the meta device and without its weights. Raises ConfigError where it is not
        told by small files."""
        del settings, condition_width
        raise ConfigError(f"--gpu: an encoder of the kind {self.kind} tells no sizes; leave it out.")

    def sizes_of(self, folder: Path) -> AbstractInstructionEncoder:
        """What `load` gives, likewise."""
        del folder
        raise ConfigError(f"--gpu: an encoder of the kind {self.kind} tells no sizes; leave it out.")

    @abstractmethod
    def save(self, encoder: Any, prompts: Any, folder: Path) -> dict[str, Any]:
        """Write it into the folder of a release; facts for the index, plain data for JSON."""

    @abstractmethod
    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        attention: str = "sdpa",
        progress: bool = False,
    ) -> tuple[AbstractInstructionEncoder, AbstractPrompts]:
        """Read what `save` wrote, every tensor as it is in the file. Raises WeightsError."""

    def teacher(self, settings: Any, prompts: Any, text_model: Any) -> AbstractInstructionEncoder:
        """A text encoder as one that reads this kind's tokens, for its condition to be aligned with.

        Raises ConfigError where it cannot be.
        """
        del settings, prompts, text_model
        raise ConfigError(
            f"train.align_weight: an encoder of the kind {self.kind} learns from no text encoder; set it "
            "to 0."
        )


class AbstractDenoiserPart(AbstractPart):
    """A kind of denoiser, with the codec whose latents it paints."""

    @abstractmethod
    def build(
        self, settings: Any, *, dtype: Dtypes = torch.float32, progress: bool = False
    ) -> tuple[AbstractDenoiser, Codec, AbstractProcess]:
        """What a recipe's settings say, and how the denoiser is trained. Raises WeightsError."""

    @abstractmethod
    def save(self, denoiser: Any, codec: Codec, folder: Path) -> dict[str, Any]:
        """Write both into the folder of a release; facts for the index, plain data for JSON."""

    @abstractmethod
    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[AbstractDenoiser, Codec]:
        """Read what `save` wrote, every tensor as it is in the file. Raises WeightsError."""

    def empty(self, folder: Path, facts: dict[str, Any]) -> tuple[AbstractDenoiser, Codec] | None:
        """The same on the meta device, told by small files; None where only the weights tell."""
        del folder, facts
        return None

    def sizes(self, settings: Any) -> tuple[AbstractDenoiser, Codec, AbstractProcess]:
        """What `build` gives, on the meta device and without its weights. Raises ConfigError where it is not
        told by small files."""
        del settings
        raise ConfigError(f"--gpu: a denoiser of the kind {self.kind} tells no sizes; leave it out.")

    def text_model(self, settings: Any) -> Any:
        """The text encoder that it was pretrained with. Raises ConfigError and WeightsError."""
        del settings
        raise ConfigError(
            f"train.align_weight: a denoiser of the kind {self.kind} has no text encoder; set it to 0."
        )


def encoder_part(kind: str) -> AbstractEncoderPart:
    """The kind of encoder of this name. Raises ConfigError."""
    return _named(AbstractEncoderPart, kind, "encoder")  # pyright: ignore - the concrete ones


def denoiser_part(kind: str) -> AbstractDenoiserPart:
    """The kind of denoiser of this name. Raises ConfigError."""
    return _named(AbstractDenoiserPart, kind, "denoiser")  # pyright: ignore - the concrete ones


def part_of(module: AbstractInstructionEncoder | AbstractDenoiser) -> Any:
    """The kind that makes modules of this class. Raises ConfigError where none is known."""
    door = AbstractEncoderPart if isinstance(module, AbstractInstructionEncoder) else AbstractDenoiserPart
    for part in _known(door):
        if part.makes is type(module):
            return part()  # pyright: ignore - a concrete one
    raise ConfigError(
        f"no kind of part makes a {type(module).__name__}, so it cannot be saved: make a subclass of "
        f"{door.__name__} (docs/extending.md)."
    )


def dtype_of(dtype: Dtypes, group: str) -> torch.dtype:
    """The type of a group of parameters: its own, or that of "", which is all that is not named."""
    return dtype if isinstance(dtype, torch.dtype) else dtype.get(group, dtype[""])


def resolve(path: str) -> str:
    """A path as a recipe writes it, as one that can be opened: `builtin:` means beside the recipes."""
    return str(RECIPES / path.removeprefix(BUILTIN)) if path.startswith(BUILTIN) else path


def save_module(module: nn.Module, settings: Any, folder: Path, **more: Any) -> None:
    """Write config.json (a dataclass, and `more`) and model.safetensors into a new folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(asdict(settings) | more, indent=2) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _named(door: type[_Door], kind: str, what: str) -> _Door:
    known = {part.kind: part for part in _known(door)}
    if kind not in known:
        for entry in entry_points(group=GROUP):
            entry.load()
        known = {part.kind: part for part in _known(door)}
    if kind not in known:
        raise ConfigError(
            f"model.{what}.kind is {kind!r}: expected {' or '.join(known)}, or a kind whose module has been "
            "imported (docs/extending.md)."
        )
    return known[kind]()


def _known(door: type[_Door]) -> list[type[_Door]]:
    for module in OWN:
        importlib.import_module(module)
    return [part for part in _below(door) if "kind" in vars(part)]


def _below(door: type[_Door]) -> Iterator[type[_Door]]:
    for part in door.__subclasses__():
        yield part
        yield from _below(part)
