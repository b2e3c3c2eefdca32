"""What is learnt: a model and its losses.

All that there is to know of a loss (its name, its weight, what it is divided by) is told by its task.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llava_patch.ranges import Range
from mgie.controllers.base import join
from mgie.controllers.identity import of_rows, seen_of
from mgie.controllers.identity_options import IdentityTraining
from mgie.controllers.layout_learning import LayoutLearning
from mgie.diffusion.guidance import DropConfig, drop_conditions
from mgie.diffusion.process import AbstractProcess, Prediction
from mgie.diffusion.variational import Posterior
from mgie.errors import ConfigError, DataError
from mgie.models.adapters import without_adapters
from mgie.models.editor import Editor
from mgie.models.encoders.base import AbstractInstructionEncoder
from mgie.ranges import Share, Weight
from mgie.training.objective import Reduction, dco, softened, squared_error
from mgie.types import Batch, Context, ControlPlan, Draws, Guess, Losses, Source, Term


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
    objective: Literal["mse", "dco"] = "mse"
    """What is made of the painting's errors: their mean; or dco, for adapters: to be better than the model
    without them, but not by being anything else (direct consistency optimisation, Lee et al. 2024)."""
    dco_beta: Annotated[float, Range(gt=0, le=10**6)] = 1000.0
    """How steep dco is."""
    mask_floor: Share = 1.0
    """How much errors outside a pair's mask count, beside those within. 1: masks weigh nothing."""
    mask_reduction: Reduction = "mean"
    """What weighed errors are divided by: all places, as published (mean), or their weights (weighted), so
    that small things count as much as large ones."""
    task_weights: dict[str, Weight] = field(default_factory=dict)
    """How much the painting of the pairs of a task counts, by its name; 1 where it is not said."""
    dco_with_prior: bool = False
    """Whether dco and prior pictures, of which one does the work of the other, are wanted together."""


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
        loss: LossConfig | None = None,
        layout: LayoutLearning | None = None,
        identity: IdentityTraining | None = None,
    ):
        """`edit_weight`: of the painting beside the words, 0 for words alone, without any other loss;
        `align_weight`: of the third loss beside that;
        `loss`: how errors of the painting count. What it says of prediction and noise is the process' and the
        draws'. `layout`: the regions of the batches are learnt; `identity`: the looks of their photos. Raises
        ConfigError for words alone of an encoder that is mute."""
        super().__init__()
        self.editor = editor
        self.process = process
        self.drop = drop
        self.loss = loss or LossConfig()
        self.teacher = None if teacher is None else teacher.requires_grad_(False)
        self.weights = {"ce": 1.0, "edit": edit_weight}
        self.posterior, self.layout, self.identity = None, layout, identity
        if not edit_weight:
            if not editor.encoder.speaks:
                raise ConfigError(
                    f"train.edit_weight=0: {type(editor.encoder).__name__} has no words to learn; raise it."
                )
            self.weights = {"ce": 1.0}
            return
        if editor.denoiser.learns_variance and process.kind == "variance":
            self.posterior = Posterior(betas=process.schedule.betas)
            self.weights["variational"] = edit_weight
        if teacher is not None:
            self.weights["align"] = edit_weight * align_weight
        if layout is not None:
            self.weights |= {name: edit_weight * weight for name, weight in layout.weights.items()}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Label tokens for the words, instances for a layout's own losses, samples for the rest. Raises
        DataError for a picture that the denoiser cannot see."""
        if not self.editor.denoiser.sees_source and batch.has_source.any():
            key = batch.keys[int(batch.has_source.int().argmax())]
            raise DataError(
                f"pair {key} has a picture before the edit, and this denoiser paints new pictures only: "
                "leave such pairs out, or train an editor."
            )
        counts = dict.fromkeys(self.weights, len(batch.keys)) | {"ce": batch.label_tokens}
        instances = 0 if batch.controls is None else int(batch.controls.present.sum())
        return counts | dict.fromkeys(() if self.layout is None else self.layout.weights, instances)

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Cross-entropy of the words, error of the painting and, with a teacher, of the condition."""
        editor, process, samples = self.editor, self.process, len(batch.keys)
        context = editor.encoder.encode(self.with_latents(batch, draws))
        if "edit" not in self.weights:
            return {"ce": editor.encoder.lm_loss(context, batch.labels)}
        target, source = self.latents(batch, draws)  # b c h w
        context = self.at_size(context, target)
        source = self.shown(source, batch)

        # Guidance needs a model that has also seen "no words" and "no picture".
        condition, source, told = drop_conditions(context, source, draws.keep, drop=self.drop)

        noisy = process.corrupt(target, draws.noise, draws.t)
        plan = self.plan(batch, context, draws, told, target)
        more = {} if plan is None else {"plan": plan.inner}
        wanted = process.wanted(target, draws.noise, draws.t)
        plain = None
        if self.loss.objective == "dco":
            with torch.no_grad(), without_adapters(editor.denoiser):
                plain = self.errors(editor.denoiser(noisy, draws.t, source, condition, **more), wanted, batch,
                                    draws)  # fmt: skip
        guess = editor.denoiser(noisy, draws.t, source, condition, **more)
        each = self.errors(guess, wanted, batch, draws)
        if plain is not None:
            each = dco(each, plain, beta=self.loss.dco_beta)
        counts = 1.0 if batch.weight is None else batch.weight
        edit = (each * counts).sum()

        losses = {"ce": editor.encoder.lm_loss(context, batch.labels), "edit": Term(sum=edit, count=samples)}
        if self.posterior is not None:
            bound = self.posterior.bound(target, noisy, guess, draws.t)
            losses["variational"] = Term(sum=(bound * counts).sum(), count=samples)
        if self.teacher is not None:
            losses["align"] = Term(sum=align_loss(context, self.teacher.encode(batch)), count=samples)
        if plan is not None and plan.losses:
            instances = samples if batch.controls is None else batch.controls.present.sum()
            losses |= {name: Term(sum=loss(), count=instances) for name, loss in plan.losses.items()}
        return losses

    def errors(
        self, guess: Guess, wanted: Float[Tensor, "b c h w"], batch: Batch, draws: Draws
    ) -> Float[Tensor, " b"]:
        """Those of the painting, of each sample, weighed by place and time."""
        loss, weight = self.loss, None
        if batch.loss_mask is not None and loss.mask_floor < 1:
            grid = (wanted.shape[-2], wanted.shape[-1])
            weight = softened(batch.loss_mask, grid, floor=loss.mask_floor)
        each = squared_error(guess.mean, wanted, weight, reduction=loss.mask_reduction)
        if loss.min_snr is None:
            return each
        return each * self.process.min_snr(draws.t, loss.min_snr, wanted).float()

    def plan(
        self, batch: Batch, context: Context, draws: Draws, told: Bool[Tensor, " b"], latents: Tensor
    ) -> ControlPlan | None:
        """What the denoiser is to heed besides the condition: what the encoder says, and regions."""
        grid = (latents.shape[-2], latents.shape[-1])
        plans = {"references": self.editor.encoder.plan(context, told)}
        if self.layout is not None and batch.controls is not None:
            plans["layout"] = self.layout.plan(batch.controls, context, draws, told, grid)
        if self.identity is not None:
            plans["identity"] = look_of(self.editor, batch, draws, told, drop=self.identity.drop)
        given = {name: plan for name, plan in plans.items() if plan is not None}
        return join(given) if len(given) > 1 else next(iter(given.values()), None)

    def shown(self, source: Float[Tensor, "b c h w"], batch: Batch) -> Source:
        """What the denoiser sees of the pictures before the edit, zeros where there is none; None for one
        that sees no such."""
        if not self.editor.denoiser.sees_source:
            return None
        return source * batch.has_source[:, None, None, None]

    @torch.no_grad()
    def held_out(self, batch: Batch, draws: Draws, levels: Sequence[float]) -> Losses:
        """The losses of pairs that are not learnt from, told everything: of the words, and of the painting at
        these parts of the times in [0, 1), each with the same noise and nothing weighted."""
        editor, process, samples = self.editor, self.process, len(batch.keys)
        context = editor.encoder.encode(self.with_latents(batch, draws))
        losses = {"ce": editor.encoder.lm_loss(context, batch.labels)}
        target, source = self.latents(batch, draws)
        context = self.at_size(context, target)
        source = self.shown(source, batch)
        plan = self.plan(batch, context, draws, torch.ones_like(batch.has_source), target)
        more = {} if plan is None else {"plan": plan.inner}
        for level in levels:
            t = process.times(torch.full_like(draws.keep, level))
            noisy = process.corrupt(target, draws.noise, t)
            guess = editor.denoiser(noisy, t, source, context.condition, **more)
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
        target = codec.encode(batch.target, draws.posterior)
        if not self.editor.denoiser.sees_source:
            return target, torch.zeros_like(target)
        return target, codec.encode_source(batch.source)


def look_of(
    editor: Editor, batch: Batch, draws: Draws, told: Bool[Tensor, " b"], *, drop: float
) -> ControlPlan:
    """The looks of the photos of a batch; the blocks are asked where there are none, too.

    Raises DataError for pictures inside instructions, whose looks stand among those of the photos.
    """
    blocks = editor.controllers.for_identity
    assert blocks is not None
    if batch.pictures is not None:
        raise DataError(
            f"pair {batch.keys[0]} is in a batch with pictures in its instructions, and identity is learnt "
            "from photos alone: leave such pairs out."
        )
    with torch.no_grad():
        features = batch.features
        if features is None:
            features = editor.encoder.image_features(batch.clip_pixels.to(editor.encoder.vision_dtype))
        seen = of_rows(seen_of(features), batch.has_source)
    there = batch.has_source & told
    return blocks.plan(seen, there if draws.known is None else there & (draws.known >= drop))


def align_loss(context: Context, wanted: Context) -> Float[Tensor, ""]:
    """Sum over the samples of the mean squared distances of the condition and of the null."""
    told, silent = context.condition.tokens.float(), context.null.tokens.float()
    tokens = (told - wanted.condition.tokens.float()).square().mean(dim=(1, 2)).sum()
    null = (silent - wanted.null.tokens.float()).square().mean()
    return tokens + len(told) * null
