"""The task: an editor and its objective. The only place where the losses meet."""

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float
from torch import Tensor, nn

from mgie.data.stored_features import FeatureBatch
from mgie.diffusion.guidance import DropConfig, drop_conditions
from mgie.diffusion.noise import corrupt, prediction_target
from mgie.models.editor import Editor
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.types import Batch, Context, Draws, Losses


class EditTask(nn.Module):
    """Learn to say what the edit will look like, and to paint it (MGIE, Fu et al. 2024, section 3.3).

    A `teacher`, the text encoder that the denoiser was pretrained with, adds a third loss: the condition
    shall be what it makes of the same words (GILL, Koh et al. 2023, section 3.2). It is not trained.
    """

    def __init__(
        self,
        editor: Editor,
        scheduler: DDPMScheduler,
        *,
        drop: DropConfig,
        teacher: ClipTextEncoder | None = None,
    ):
        super().__init__()
        self.editor = editor
        self.scheduler = scheduler
        self.drop = drop
        self.teacher = None if teacher is None else teacher.requires_grad_(False)

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Both losses of `batch`, as sums; all that is random in them is `draws`."""
        editor = self.editor
        context = editor.encoder.encode(batch)
        speak, spoken = editor.encoder.lm_loss(context, batch.labels)
        align = torch.zeros_like(speak)
        if self.teacher is not None:
            align = align_loss(context, self.teacher.encode(batch))

        target, source = self.latents(batch, draws)  # b c h w: sampled and scaled; the mode, not scaled
        source = source * batch.has_source[:, None, None, None]

        # Guidance needs a model that has also seen "no words" and "no picture".
        condition, source = drop_conditions(context.tokens, context.null, source, draws.keep, drop=self.drop)

        noisy = corrupt(target, draws.noise, draws.t, self.scheduler)
        guess = editor.denoiser(noisy, draws.t, source, condition)
        wanted = prediction_target(self.scheduler, target, draws.noise, draws.t)
        edit = (guess.float() - wanted.float()).square().mean(dim=(1, 2, 3)).sum()
        return Losses(speak=speak, spoken=spoken, edit=edit, align=align, samples=len(batch.keys))

    def latents(
        self, batch: Batch, draws: Draws
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The target's latents and the source's, from pixels or from stored moments."""
        codec = self.editor.codec
        if isinstance(batch, FeatureBatch) and batch.target_mean is not None:
            assert batch.target_std is not None and batch.source_mean is not None
            return (batch.target_mean + batch.target_std * draws.posterior) * codec.scale, batch.source_mean
        return codec.encode(batch.target, draws.posterior), codec.encode_mode(batch.source)


def align_loss(context: Context, wanted: Context) -> Float[Tensor, ""]:
    """Sum over the samples of the mean squared distances of the condition and of the null."""
    tokens = (context.tokens.float() - wanted.tokens.float()).square().mean(dim=(1, 2)).sum()
    null = (context.null.float() - wanted.null.float()).square().mean()
    return tokens + len(context.tokens) * null
