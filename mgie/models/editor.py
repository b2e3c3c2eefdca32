"""The editor: what understands, what paints, the codec of its pictures, and controllers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mgie.controllers.identity import IdentityBlocks
from mgie.controllers.layout import LayoutBlocks
from mgie.errors import WeightsError
from mgie.models.adapters import adapter_parameters
from mgie.models.codec import Codec
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.encoders.base import AbstractInstructionEncoder


class Controllers(nn.ModuleDict):
    """What was trained to control a denoiser, by name; empty where nothing was."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its parameters."""
        return next(self.parameters()).dtype

    @property
    def for_layout(self) -> LayoutBlocks | None:
        """The blocks of a layout, where there are some."""
        return dict(self.items()).get("layout")  # pyright: ignore - what it holds

    @property
    def for_identity(self) -> IdentityBlocks | None:
        """What hears the look of a photo, where it was trained."""
        return dict(self.items()).get("identity")  # pyright: ignore - what it holds


class Editor(nn.Module):
    """Three parts side by side. What happens between them is the task's in training, else the pipeline's.

    What was trained to control the denoiser stands beside it, by name: its own weights are what they are.
    """

    def __init__(
        self,
        *,
        encoder: AbstractInstructionEncoder,
        denoiser: AbstractDenoiser,
        codec: Codec,
        controllers: Mapping[str, nn.Module] | Controllers | None = None,
    ):
        """Raises WeightsError for parts that were not made for each other."""
        super().__init__()
        told, painted = encoder.condition_width, denoiser.latent_channels
        if told != denoiser.condition_width or painted != codec.space.channels:
            raise WeightsError(
                f"the encoder's condition has width {told} and the denoiser takes "
                f"{denoiser.condition_width}; the denoiser paints {painted} channels and the codec has "
                f"{codec.space.channels}: use parts that were trained together."
            )
        encoder.meet(denoiser)
        self.encoder = encoder
        self.denoiser = denoiser
        self.codec = codec
        self.controllers = Controllers(dict(controllers.items()) if controllers else None)
        if self.controllers.for_layout is not None:
            self.controllers.for_layout.check(denoiser.attentions)
        if self.controllers.for_identity is not None:
            self.controllers.for_identity.check(denoiser.attentions, vision=vision_width(encoder))

    def take_layout(self, blocks: LayoutBlocks) -> None:
        """Have these blocks for layouts from now on. Raises WeightsError for those of another denoiser."""
        blocks.check(self.denoiser.attentions)
        self.controllers["layout"] = blocks

    def take_identity(self, blocks: IdentityBlocks) -> None:
        """Have these tokens of looks from now on. Raises WeightsError for those of another editor."""
        blocks.check(self.denoiser.attentions, vision=vision_width(self.encoder))
        self.controllers["identity"] = blocks

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups, each parameter in exactly one: the encoder's own groups, `denoiser`, `codec`, and one
        for each controller; the text encoder that reads a layout's phrases is `phrase_reader`.

        Adapters, where there are some, are apart: `lora_language_model`, `lora_denoiser`.
        """
        groups = {
            **self.encoder.groups(),
            "denoiser": list(self.denoiser.parameters()),
            "codec": list(self.codec.parameters()),
            **{name: list(controller.parameters()) for name, controller in self.controllers.items()},
        }
        if (blocks := self.controllers.for_layout) is not None and blocks.reader is not None:
            groups["layout"] = list(blocks.blocks.parameters())
            groups["phrase_reader"] = list(blocks.reader.parameters())
        for name, part in (("lora_language_model", self.encoder), ("lora_denoiser", self.denoiser)):
            if added := adapter_parameters(part):
                apart = {id(parameter) for parameter in added}
                groups = {key: [p for p in each if id(p) not in apart] for key, each in groups.items()}
                groups[name] = added
        return groups


def vision_width(encoder: AbstractInstructionEncoder) -> int:
    """Width of what an encoder's tower sees. Raises ConfigError where there is none."""
    tower: Any = encoder.vision_tower
    return tower.config.hidden_size
