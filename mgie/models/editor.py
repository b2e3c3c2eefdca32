"""The editor: something that understands, something that paints, and the codec between pixels and latents."""

from torch import nn

from mgie.models.codec import Codec
from mgie.models.denoisers.base import AbstractDenoiser
from mgie.models.encoders.base import AbstractInstructionEncoder


class Editor(nn.Module):
    """Three parts side by side. What happens between them is the task's in training, else the pipeline's."""

    def __init__(self, *, encoder: AbstractInstructionEncoder, denoiser: AbstractDenoiser, codec: Codec):
        super().__init__()
        self.encoder = encoder
        self.denoiser = denoiser
        self.codec = codec

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Named groups, each parameter in exactly one: the encoder's own groups, `denoiser` and `codec`."""
        return {
            **self.encoder.groups(),
            "denoiser": list(self.denoiser.parameters()),
            "codec": list(self.codec.parameters()),
        }
