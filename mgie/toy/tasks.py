"""What the small base learns one part at a time. It says what an edit does, and compresses pictures."""

from collections.abc import Mapping

import torch

from llava_patch.model import Llava
from mgie.models.codec import Codec
from mgie.models.encoders.llava import lm_loss
from mgie.training.task import AbstractTask
from mgie.types import Batch, Draws, Losses, Term


class LanguageTask(AbstractTask):
    """Learn only to say what the edit will look like: the language side by itself."""

    weights: Mapping[str, float] = {"ce": 1.0}

    def __init__(self, llava: Llava):
        super().__init__()
        self.editor = llava

    def counts(self, batch: Batch) -> dict[str, int]:
        """Label tokens."""
        return {"ce": batch.label_tokens}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Cross-entropy of the words; nothing in it is random."""
        del draws
        states = self.editor(batch.input_ids, batch.mask, batch.clip_pixels)
        return {"ce": lm_loss(self.editor, states, batch.labels)}


class CodecTask(AbstractTask):
    """Learn to compress pictures: the error of the reconstruction, and a light pull of latents to N(0, 1).

    Sources and targets are pictures alike: a sample's loss is the mean of its two.
    """

    weights: Mapping[str, float] = {"codec": 1.0}

    def __init__(self, codec: Codec, *, kl_weight: float):
        super().__init__()
        self.editor = codec
        self.kl_weight = kl_weight

    def counts(self, batch: Batch) -> dict[str, int]:
        """Samples."""
        return {"codec": len(batch.keys)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The loss of both pictures; `draws.posterior` makes the sample of each."""
        pixels = torch.cat([batch.source, batch.target])
        mean, std = self.editor.moments(pixels)
        again = self.editor.vae.decode(mean + std * draws.posterior.repeat(2, 1, 1, 1)).sample
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean(dim=(1, 2, 3))
        error = (again - pixels).abs().mean(dim=(1, 2, 3)) + (again - pixels).square().mean(dim=(1, 2, 3))
        return {"codec": Term(sum=(error + self.kl_weight * kl).sum() / 2, count=len(batch.keys))}
