"""What the small base learns one part at a time: to say what an edit does, and to compress pictures."""

import torch
from torch import nn

from llava_patch.model import Llava
from mgie.models.codec import Codec
from mgie.models.encoders.llava import lm_loss
from mgie.types import Batch, Draws, Losses


class LanguageTask(nn.Module):
    """Learn only to say what the edit will look like: the language side by itself."""

    def __init__(self, llava: Llava):
        super().__init__()
        self.editor = llava

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The speaking loss; nothing in it is random."""
        del draws
        states = self.editor(batch.input_ids, batch.mask, batch.clip_pixels)
        speak, spoken = lm_loss(self.editor, states, batch.labels)
        none = torch.zeros_like(speak)
        return Losses(speak=speak, spoken=spoken, edit=none, align=none, samples=len(batch.keys))


class CodecTask(nn.Module):
    """Learn to compress pictures: the error of the reconstruction, and a light pull of latents to N(0, 1).

    Sources and targets are pictures alike: a sample's loss is the mean of its two.
    """

    def __init__(self, codec: Codec, *, kl_weight: float):
        super().__init__()
        self.editor = codec
        self.kl_weight = kl_weight

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The reconstruction loss as `edit`; `draws.posterior` makes the sample of both pictures."""
        pixels = torch.cat([batch.source, batch.target])
        mean, std = self.editor.moments(pixels)
        again = self.editor.vae.decode(mean + std * draws.posterior.repeat(2, 1, 1, 1)).sample
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean(dim=(1, 2, 3))
        error = (again - pixels).abs().mean(dim=(1, 2, 3)) + (again - pixels).square().mean(dim=(1, 2, 3))
        edit = (error + self.kl_weight * kl).sum() / 2
        none = torch.zeros_like(edit)
        return Losses(
            speak=none,
            spoken=torch.zeros_like(batch.labels[0, 0]),
            edit=edit,
            align=none,
            samples=len(batch.keys),
        )
