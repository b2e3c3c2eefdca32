"""What the small base learns one part at a time. It says what an edit does, and compresses pictures."""

from collections.abc import Mapping

import torch

from llava_patch.model import Llava
from mgie.models.codec import Codec
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.llava import LlavaEncoder, lm_loss
from mgie.training.task import AbstractTask, align_loss
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


class AlignTask(AbstractTask):
    """Learn to hand over what is said: the condition of the visual tokens becomes that of the text encoder
    which the painter learnt with (as GILL's, Koh et al. 2023, section 3.1), beside the words themselves."""

    weights: Mapping[str, float] = {"ce": 1.0, "align": 1.0}

    def __init__(self, encoder: LlavaEncoder, teacher: ClipTextEncoder):
        super().__init__()
        self.editor = encoder
        self.teacher = teacher.requires_grad_(False)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Label tokens for the words, samples for the condition."""
        return {"ce": batch.label_tokens, "align": len(batch.keys)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Cross-entropy of the words and distance of the condition; nothing in it is random."""
        del draws
        context = self.editor.encode(batch)
        with torch.no_grad():
            wanted = self.teacher.encode(batch)
        distance = Term(sum=align_loss(context, wanted), count=len(batch.keys))
        return {"ce": self.editor.lm_loss(context, batch.labels), "align": distance}


class CodecTask(AbstractTask):
    """Learn to compress pictures: the error of the reconstruction from latents with some noise on them, and a
    light pull of these towards zero, or they would grow until the noise is nothing.

    Sources and targets are pictures alike: a sample's loss is the mean of its two.
    """

    weights: Mapping[str, float] = {"codec": 1.0}

    def __init__(self, codec: Codec, *, noise: float, pull: float):
        """`noise` is a deviation in latents, `pull` the weight of half their mean square."""
        super().__init__()
        self.editor = codec
        self.noise, self.pull = noise, pull

    def counts(self, batch: Batch) -> dict[str, int]:
        """Samples."""
        return {"codec": len(batch.keys)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The loss of both pictures; `draws.posterior` and `draws.noise` are the noises of their latents."""
        pixels = torch.cat([batch.source, batch.target])
        latents = self.editor.moments(pixels)[0]
        noise = torch.cat([draws.noise, draws.posterior])
        again = self.editor.vae.decode(latents + self.noise * noise).sample.float()
        error = (again - pixels).abs().mean(dim=(1, 2, 3)) + (again - pixels).square().mean(dim=(1, 2, 3))
        size = 0.5 * latents.square().mean(dim=(1, 2, 3))
        return {"codec": Term(sum=(error + self.pull * size).sum() / 2, count=len(batch.keys))}
