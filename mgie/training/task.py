"""What is learnt: a model and its losses.

All that there is to know of a loss (its name, its weight, what it is divided by) is told by its task.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llava_patch.ranges import Range
from mgie.diffusion.guidance import DropConfig, drop_conditions
from mgie.diffusion.process import AbstractProcess, Prediction
from mgie.diffusion.variational import Posterior
from mgie.models.editor import Editor
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.ranges import Share
from mgie.training.objective import squared_error
from mgie.types import Batch, Context, Draws, Losses, Term


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the denoiser predicts, and how its errors count. By default all is as its parts say."""

    prediction: Prediction | None = None
    """Noise (epsilon), velocity (v_prediction), picture (sample) or the velocity of a straight line (flow).
    None: what the denoiser was trained for; with another one it has much to learn anew."""
    min_snr: Annotated[float, Range(gt=0, le=1000)] | None = None
    """Bound of the signal-to-noise ratio by which errors are weighted (min-SNR, Hang et al. 2023, who take
    5). None: all times count alike."""
    offset_noise: Share = 0.0
    """Deviation of noise that is the same all over a channel, added to the other; with 0.1 very dark and very
    bright pictures are learnt (Lin et al. 2024, section 2, tell of it). 0: none."""


class AbstractTask(nn.Module, ABC):
    """A model and its losses, for a loop that knows none of them by name."""

    editor: Any
    """The module that is trained."""
    weights: Mapping[str, float]
    """How much each loss counts, by name."""

    @abstractmethod
    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The losses of `batch`, under the names of `weights`; all that is random in them is `draws`."""

    @abstractmethod
    def counts(self, batch: Batch) -> Mapping[str, int]:
        """What each loss of `batch` will be divided by: known from the CPU's batch, before it is computed."""

    def weighted(self, losses: Losses, counts: Mapping[str, int]) -> Float[Tensor, ""]:
        """What is gone down: the losses times their weights, over the `counts` of the whole step."""
        parts = [weight * losses[name].sum / counts[name] for name, weight in self.weights.items()]
        return sum(parts[1:], parts[0])


class EditTask(AbstractTask):
    """Learn to say what the edit will look like, and to paint it (MGIE, Fu et al. 2024, section 3.3).

    A `teacher`, the text encoder that the denoiser was pretrained with, adds a third loss: the condition
    shall be what it makes of the same words (GILL, Koh et al. 2023, section 3.2). It is not trained.
    """

    def __init__(
        self,
        editor: Editor,
        process: AbstractProcess,
        *,
        drop: DropConfig,
        edit_weight: float = 1.0,
        align_weight: float = 1.0,
        teacher: AbstractInstructionEncoder | None = None,
        min_snr: float | None = None,
    ):
        """`edit_weight`: of the painting beside the words; `align_weight`: of the third loss beside that;
        `min_snr`: as in LossConfig."""
        super().__init__()
        self.editor = editor
        self.process = process
        self.drop = drop
        self.min_snr = min_snr
        self.teacher = None if teacher is None else teacher.requires_grad_(False)
        self.weights = {"ce": 1.0, "edit": edit_weight}
        self.posterior = None
        if editor.denoiser.learns_variance and process.kind == "variance":
            self.posterior = Posterior(betas=process.schedule.betas)
            self.weights["variational"] = edit_weight
        if teacher is not None:
            self.weights["align"] = edit_weight * align_weight

    def counts(self, batch: Batch) -> dict[str, int]:
        """Label tokens for the words, samples for the rest."""
        return {name: batch.label_tokens if name == "ce" else len(batch.keys) for name in self.weights}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Cross-entropy of the words, error of the painting and, with a teacher, of the condition."""
        editor, process, samples = self.editor, self.process, len(batch.keys)
        context = editor.encoder.encode(self.with_latents(batch, draws))
        target, source = self.latents(batch, draws)  # b c h w
        context = self.at_size(context, target)
        source = source * batch.has_source[:, None, None, None]

        # Guidance needs a model that has also seen "no words" and "no picture".
        condition, source, told = drop_conditions(context, source, draws.keep, drop=self.drop)

        noisy = process.corrupt(target, draws.noise, draws.t)
        plan = editor.encoder.plan(context, told)
        more = {} if plan is None else {"plan": plan}
        guess = editor.denoiser(noisy, draws.t, source, condition, **more)
        wanted = process.wanted(target, draws.noise, draws.t)
        each = squared_error(guess.mean, wanted)
        if self.min_snr is not None:
            each = each * process.min_snr(draws.t, self.min_snr, wanted).float()
        edit = each.sum()

        losses = {"ce": editor.encoder.lm_loss(context, batch.labels), "edit": Term(sum=edit, count=samples)}
        if self.posterior is not None:
            bound = self.posterior.bound(target, noisy, guess, draws.t).sum()
            losses["variational"] = Term(sum=bound, count=samples)
        if self.teacher is not None:
            losses["align"] = Term(sum=align_loss(context, self.teacher.encode(batch)), count=samples)
        return losses

    @torch.no_grad()
    def held_out(self, batch: Batch, draws: Draws, levels: Sequence[float]) -> Losses:
        """The losses of pairs that are not learnt from, told everything: of the words, and of the painting at
        these parts of the times in [0, 1), each with the same noise and nothing weighted."""
        editor, process, samples = self.editor, self.process, len(batch.keys)
        context = editor.encoder.encode(self.with_latents(batch, draws))
        losses = {"ce": editor.encoder.lm_loss(context, batch.labels)}
        target, source = self.latents(batch, draws)
        context = self.at_size(context, target)
        source = source * batch.has_source[:, None, None, None]
        for level in levels:
            t = process.times(torch.full_like(draws.keep, level))
            noisy = process.corrupt(target, draws.noise, t)
            guess = editor.denoiser(noisy, t, source, context.condition)
            wanted = process.wanted(target, draws.noise, t)
            error = squared_error(guess.mean, wanted).sum()
            losses[f"edit_{level:g}"] = Term(sum=error, count=samples)
        return losses

    def at_size(self, context: Context, latents: Float[Tensor, "b c h w"]) -> Context:
        """The context, which may depend on the size of the pictures of these latents."""
        height, width = (side * self.editor.codec.space.factor for side in latents.shape[-2:])
        return self.editor.encoder.at_size(context, (height, width))

    def with_latents(self, batch: Batch, draws: Draws) -> Batch:
        """The same with samples of the posteriors of the pictures in its instructions, not scaled, for an
        encoder that reads them."""
        inside = batch.pictures
        if inside is None or inside.pixels is None or not self.editor.encoder.reads_latents:
            return batch
        assert draws.pictures is not None
        with torch.no_grad():
            mean, std = self.editor.codec.moments(inside.pixels)
        return replace(batch, pictures=replace(inside, latents=mean + std * draws.pictures))

    def latents(
        self, batch: Batch, draws: Draws
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The target's latents and the source's, from pixels or from stored moments."""
        codec = self.editor.codec
        if batch.target_mean is not None:
            assert batch.target_std is not None and batch.source_mean is not None
            target = codec.target_latents(batch.target_mean, batch.target_std, draws.posterior)
            return target, codec.source_latents(batch.source_mean)
        return codec.encode(batch.target, draws.posterior), codec.encode_source(batch.source)


def align_loss(context: Context, wanted: Context) -> Float[Tensor, ""]:
    """Sum over the samples of the mean squared distances of the condition and of the null."""
    told, silent = context.condition.tokens.float(), context.null.tokens.float()
    tokens = (told - wanted.condition.tokens.float()).square().mean(dim=(1, 2)).sum()
    null = (silent - wanted.null.tokens.float()).square().mean()
    return tokens + len(told) * null
