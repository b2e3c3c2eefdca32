"""What the small base learns one part at a time."""

from collections.abc import Callable

import pytest
import torch

from mgie.build import Parts, build_editor, build_teacher
from mgie.build_data import build_batches
from mgie.config import RunConfig
from mgie.diffusion.guidance import DropConfig
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.toy.tasks import AlignTask, CodecTask, LanguageTask
from mgie.training.draws import draws_for
from mgie.training.task import EditTask
from mgie.types import Batch, Draws

BY_HAND = 1e-5
"""A sample alone and the same in a batch differ by the order of sums."""


@pytest.fixture
def run(tiny_run: Callable[..., RunConfig]) -> RunConfig:
    return tiny_run()


@pytest.fixture
def parts(run: RunConfig) -> Parts:
    return build_editor(run)


@pytest.fixture
def batch(run: RunConfig, parts: Parts) -> Batch:
    """The first four pairs of the run."""
    return next(build_batches(run, parts.prompts, rank=0, world=1).steps())[0]


@pytest.fixture
def draws(run: RunConfig, parts: Parts, batch: Batch) -> Draws:
    shape = parts.editor.codec.latent_shape(*batch.target.shape[-2:])
    return draws_for(run.seed, batch.positions, latent_shape=shape, process=parts.process, shift=1.0)


def test_speaking_alone_is_the_same_loss(parts, batch, draws):
    both = EditTask(parts.editor, parts.process, drop=DropConfig())(batch, draws)
    task = LanguageTask(parts.editor.encoder.llava)
    alone = task(batch, draws)
    assert torch.equal(alone["ce"].sum, both["ce"].sum)
    assert LanguageTask.weights.keys() == alone.keys()
    assert alone["ce"].count == both["ce"].count == task.counts(batch)["ce"]


def test_aligning_alone_is_the_same_losses(run, parts, batch, draws):
    teacher = build_teacher(run, parts)
    assert isinstance(teacher, ClipTextEncoder)
    all_of_it = EditTask(parts.editor, parts.process, drop=DropConfig(), align_weight=1.0, teacher=teacher)
    both = all_of_it(batch, draws)
    task = AlignTask(parts.editor.encoder, teacher)
    alone = task(batch, draws)
    assert AlignTask.weights.keys() == alone.keys()
    for name, loss in alone.items():
        assert torch.equal(loss.sum, both[name].sum)
        assert loss.count == both[name].count == task.counts(batch)[name]
    alone["align"].sum.backward()
    learnt = {name for name, each in task.named_parameters() if each.grad is not None and each.grad.any()}
    assert any(name.startswith("editor.edit_head.") for name in learnt)
    assert any(name.startswith("editor.llava.language_model.") for name in learnt)
    assert not any(name.startswith("teacher.") for name in learnt)


def test_the_codec_learns_from_sources_and_targets_alike(parts, batch, draws):
    codec = parts.editor.codec
    task = CodecTask(codec, noise=0.5, pull=0.1)
    loss = task(batch, draws)["codec"]
    total = torch.zeros(())
    for row in range(len(batch.keys)):
        for pixels, noise in ((batch.source, draws.noise), (batch.target, draws.posterior)):
            latents, wanted = codec.moments(pixels[row : row + 1])[0], pixels[row : row + 1]
            again = codec.vae.decode(latents + 0.5 * noise[row : row + 1]).sample
            error = (again - wanted).abs().mean() + (again - wanted).square().mean()
            total += 0.5 * (error + 0.1 * 0.5 * latents.square().mean())
    torch.testing.assert_close(loss.sum, total, rtol=BY_HAND, atol=BY_HAND)
    assert loss.count == task.counts(batch)["codec"] == 4
    loss.sum.backward()
    assert all(parameter.grad is not None for parameter in codec.parameters())
