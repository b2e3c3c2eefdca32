"""The editor: what understands, what paints, and the codec of its pictures."""

from torch import nn

from mgie.errors import WeightsError
from mgie.models.adapters import adapter_parameters
from mgie.models.codec import Codec
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.encoders.base import AbstractInstructionEncoder


class Editor(nn.Module):
    """Three parts side by side. What happens between them is the task's in training, else the pipeline's."""

    def __init__(self, *, encoder: AbstractInstructionEncoder, denoiser: AbstractDenoiser, codec: Codec):
        """Raises WeightsError for parts that were not made for each other."""
        super().__init__()
        told, painted = encoder.condition_width, denoiser.latent_channels
        if told != denoiser.condition_width or painted != codec.space.channels:
            raise WeightsError(
                f"the encoder's condition has width {told} and the denoiser takes "
                f"{denoiser.condition_width}; the denoiser paints {painted} channels and the codec has "
                f"{codec.space.channels}: use parts that were trained together."
            )
        self.encoder = encoder
        self.denoiser = denoiser
        self.codec = codec

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups, each parameter in exactly one: the encoder's own groups, `denoiser` and `codec`.

        Adapters, where there are some, are apart: `lora_language_model`, `lora_denoiser`.
        """
        groups = {
            **self.encoder.groups(),
            "denoiser": list(self.denoiser.parameters()),
            "codec": list(self.codec.parameters()),
        }
        for name, part in (("lora_language_model", self.encoder), ("lora_denoiser", self.denoiser)):
            if added := adapter_parameters(part):
                apart = {id(parameter) for parameter in added}
                groups = {key: [p for p in each if id(p) not in apart] for key, each in groups.items()}
                groups[name] = added
        return groups
