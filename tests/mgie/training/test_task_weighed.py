"""What masks, weights of samples and dco make of the painting's loss."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_pipelines import saved
from subject_data import write_subjects

from mgie.build import Parts, build_editor, make_trainable
from mgie.build_data import build_batches
from mgie.config import RunConfig, load_run
from mgie.diffusion.guidance import DropConfig
from mgie.errors import DataError
from mgie.models.adapters import adapter_parameters
from mgie.training.draws import draws_for
from mgie.training.optim import choose_trained
from mgie.training.task import EditTask, LossConfig
from mgie.types import Batch, Draws

NEVER = DropConfig(text=0.0, both=0.0, image=0.0)


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Callable[..., RunConfig]:
    place = tmp_path_factory.mktemp("small")
    base, things = saved("sd15", place / "sd"), write_subjects(place / "things", "ab")
    write_subjects(things, "ab", file="class_metadata.jsonl")

    def run(*more: str) -> RunConfig:
        fixed = [f"--model.release={base}", f"--data.path={things}", "--data.size=16", "--data.workers=0",
                 "--train.batch_size=4", "--train.micro_batch_size=4", "--train.precision=fp32"]  # fmt: skip
        return load_run("mudi_sd15", [*fixed, *(word.replace("THINGS", str(things)) for word in more)])

    return run


def first(run: RunConfig) -> tuple[Parts, Batch, Draws]:
    """The parts of a run, its first batch, and what is drawn for that."""
    parts = build_editor(run)
    make_trainable(run, parts.editor)
    choose_trained(parts.editor, parts.editor.groups(), run.train.groups)
    batch = next(build_batches(run, parts.prompts, rank=0, world=1).steps())[0]
    shape = parts.editor.codec.latent_shape(16, 16)
    draws = draws_for(run.seed, batch.positions, latent_shape=shape, process=parts.process, shift=1.0)
    return parts, batch, draws


def loss(parts: Parts, batch: Batch, draws: Draws, config: LossConfig) -> torch.Tensor:
    task = EditTask(parts.editor, parts.process, drop=NEVER, loss=config)
    return task(batch, draws)["edit"].sum


def test_all_is_as_without_masks_at_a_floor_of_one(make):
    run = make("--data.subjects.segmix.prob=1", "--train.loss.mask_floor=0")
    parts, batch, draws = first(run)
    assert batch.loss_mask is not None and batch.weight is None
    assert set(batch.loss_mask.unique().tolist()) == {0.0, 1.0}
    assert batch.loss_mask.shape == (4, 1, 16, 16)
    plain = loss(parts, replace(batch, loss_mask=None), draws, LossConfig())
    assert torch.equal(loss(parts, batch, draws, LossConfig()), plain)
    held = loss(parts, batch, draws, LossConfig(mask_floor=0.0))
    assert 0 < held < plain
    half = loss(parts, batch, draws, LossConfig(mask_floor=0.5))
    assert torch.allclose(half, (held + plain) / 2, rtol=1e-5)
    whole = replace(batch, loss_mask=torch.ones_like(batch.loss_mask))
    assert torch.allclose(loss(parts, whole, draws, LossConfig(mask_floor=0.0)), plain, rtol=1e-6)


def test_photos_count_as_a_whole_beside_canvases(make):
    run = make("--data.subjects.segmix.prob=0.5", "--train.loss.mask_floor=0")
    batches = build_batches(run, build_editor(run).prompts, rank=0, world=1).steps()
    masks = torch.cat(
        [batch.loss_mask for _, (batch,) in zip(range(4), batches) if batch.loss_mask is not None]
    )
    photos = masks.flatten(1).mean(1) == 1
    assert 0 < photos.sum() < len(photos)


def test_a_step_with_a_prior_is_the_sum_of_both_means(make):
    parts, batch, draws = first(make("--data.subjects.prior=THINGS"))
    assert batch.weight is not None and batch.weight.tolist() == [2.0] * 4
    alike = loss(parts, batch, draws, LossConfig())
    assert torch.allclose(alike, 2 * loss(parts, replace(batch, weight=None), draws, LossConfig()), rtol=1e-6)
    less = make("--data.subjects.prior=THINGS", "--train.loss.task_weights={subject: 2, prior: 0.5}")
    weight = first(less)[1].weight
    assert weight is not None and weight.tolist() == [2.0, 0.5] * 2


def test_dco_is_held_to_the_model_without_its_adapter(make):
    parts, batch, draws = first(make("--train.loss.objective=dco"))
    config = LossConfig(objective="dco", dco_beta=1000.0)
    begin = loss(parts, batch, draws, config)
    assert torch.allclose(begin / 4, torch.tensor(2.0).log(), rtol=1e-6)
    begin.backward()
    trained = adapter_parameters(parts.editor.denoiser)
    assert all(parameter.requires_grad for parameter in trained)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    plain = loss(parts, batch, draws, LossConfig())
    with torch.no_grad():
        for parameter in trained:
            assert parameter.grad is not None
            parameter -= 1e-3 * parameter.grad / parameter.grad.norm().clamp_min(1e-12)
    assert loss(parts, batch, draws, LossConfig()) < plain
    assert loss(parts, batch, draws, config) < begin


def test_a_picture_before_the_edit_is_refused_by_who_cannot_see_it(make):
    parts, batch, _ = first(make())
    task = EditTask(parts.editor, parts.process, drop=NEVER)
    assert task.counts(batch)["edit"] == 4
    seen = replace(batch, has_source=torch.tensor([False, True, False, False]))
    with pytest.raises(DataError, match=f"pair {batch.keys[1]} has a picture before the edit"):
        task.counts(seen)
