"""The pipeline as any of diffusers': samplers, memory, callbacks, several pictures of one prompt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

from mgie.diffusion.process import VarianceProcess
from mgie.errors import ConfigError, DataError
from mgie.pipeline import MGIEPipeline

SAMPLERS = (
    DDIMScheduler, EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler,
    LCMScheduler,
)  # fmt: skip
KINDS = ("epsilon", "v_prediction", "sample")
CLOSE = 2e-5
"""As in test_pipeline.py."""
# Some of the library's samplers speak to numpy in a way that numpy is about to change.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def photo(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def process(kind: str) -> VarianceProcess:
    """Stable Diffusion's schedule."""
    return VarianceProcess(
        DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda each: each.__name__)
def test_every_sampler_takes_every_prediction(pipe: MGIEPipeline, release, sampler, kind: str):
    """Also where the library knows no such prediction (Euler ancestral, sample): it is translated."""
    mine = process(kind)
    scheduler = DDIMScheduler.from_config(mine.schedule.config)
    pipe = MGIEPipeline.from_release(replace(release, process=mine, scheduler=scheduler))
    pipe.register_to_config(max_new_tokens=2)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = sampler.from_config(pipe.scheduler.config)
    first, again = (pipe(photo(), "darker", seed=0, num_inference_steps=3).images[0] for _ in range(2))
    assert first.size == (32, 32) and first == again


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_is_told_in_other_terms(kind: str):
    rng = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 2, 2, generator=rng) for _ in range(2))
    t = torch.tensor([3.0, 400.5, 990.0])
    mine = process(kind)
    noisy = mine.corrupt(clean, noise, t)
    for other in KINDS:
        told = mine.said_as(mine.wanted(clean, noise, t), noisy, t, other)
        assert torch.allclose(told, process(other).wanted(clean, noise, t), atol=2e-5)


def test_a_sampler_that_is_told_of_another_prediction_paints_the_same(pipe: MGIEPipeline):
    """A sampler as its class makes it by itself predicts noise; the editor does not."""
    assert pipe.process.predicts != "epsilon"
    plain = pipe(photo(), "darker", seed=0, output_type="pt").images
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="sample")
    told = pipe(photo(), "darker", seed=0, output_type="pt").images
    assert torch.allclose(plain, told, atol=1e-4)


def test_a_sampler_of_another_process_is_refused(pipe: MGIEPipeline):
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ConfigError, match=r"FlowMatchEuler.* cannot sample what this editor predicts"):
        pipe(photo(), "darker", seed=0)


def test_memory_of_the_autoencoder(pipe: MGIEPipeline):
    pictures = [photo(), photo(seed=1)]
    plain = pipe(pictures, "darker", seed=0, output_type="pt").images
    vae = pipe.codec.vae
    pipe.enable_vae_slicing()
    pipe.enable_vae_tiling()
    assert vae.use_slicing and vae.use_tiling
    try:
        assert torch.allclose(pipe(pictures, "darker", seed=0, output_type="pt").images, plain, atol=CLOSE)
    finally:
        pipe.disable_vae_slicing()
        pipe.disable_vae_tiling()
    assert not vae.use_slicing and not vae.use_tiling


def test_several_pictures_of_one_prompt(pipe: MGIEPipeline, monkeypatch):
    pictures, words = [photo(), photo(48, 24, seed=1)], ["make it dark", "invert it"]
    asked = []
    imagine = pipe._imagine
    monkeypatch.setattr(
        pipe, "_imagine", lambda given, *rest: asked.append(len(given)) or imagine(given, *rest)
    )
    told = {"num_images_per_prompt": 2, "output_type": "latent"}
    result = pipe(pictures, words, seed=5, **told)
    assert asked == [2] and len(result.images) == 4
    assert result.said[0] == result.said[1] and len(result.forced) == 4
    for row, (place, seed) in enumerate([(0, 5), (0, 6), (1, 5), (1, 6)]):
        alone = pipe(pictures[place], words[place], seed=seed, output_type="latent").images[0]
        assert (result.images[row] - alone).abs().max() < CLOSE * alone.abs().max()
    # Seeds of the pictures, or of all results, or generators of all.
    for given in ({"seed": [5, 9]}, {"seed": [5, 6, 9, 10]}):
        assert torch.equal(pipe(pictures, words, **told, **given).images[0], result.images[0])
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 5, 6)]
    other = pipe(pictures, words, **told, generator=generators).images
    assert all(torch.equal(one, two) for one, two in zip(other, result.images))
    with pytest.raises(ConfigError, match="3 seeds for 4 pictures"):
        pipe(pictures, words, **told, seed=[1, 2, 3])


def test_several_pictures_inside_a_mask(pipe: MGIEPipeline):
    picture = photo(40, 32)
    result = pipe(picture, "make it dark", mask=(0.5, 0, 1, 1), num_images_per_prompt=2, seed=1)
    assert len(result.mask) == 2 and result.outside_change == [0, 0]
    assert result.images[0] != result.images[1]
    alone = pipe(picture, "make it dark", mask=(0.5, 0, 1, 1), seed=2)
    away = np.asarray(alone.images[0], int) - np.asarray(result.images[1], int)
    assert np.abs(away).max() <= 1


def test_what_was_imagined_is_not_computed_again(pipe: MGIEPipeline, monkeypatch):
    whole = pipe(photo(), "make it dark", seed=2)
    imagined = pipe.imagine(photo(), "make it dark")
    monkeypatch.delattr(MGIEPipeline, "_imagine")
    assert pipe(photo(), "make it dark", seed=2, imagined=imagined).images == whole.images
    steps = []
    watched = {"callback_on_step_end": lambda *step: steps.append(step[1])}
    painted = pipe.paint(photo(), imagined, seed=2, num_images_per_prompt=2, **watched)
    assert len(painted) == 2 and steps == [0, 1]
    with pytest.raises(DataError, match="2 pictures and 1 were imagined"):
        pipe([photo()] * 2, "make it dark", imagined=imagined)


def test_a_callback_can_end_the_sampling(pipe: MGIEPipeline):
    steps = []

    def stop(pipeline, step, _, given):
        steps.append(step)
        pipeline._interrupt = step == 1
        return given

    for _ in range(2):  # it is forgotten before the next call
        steps.clear()
        result = pipe(photo(), "darker", seed=0, num_inference_steps=5, callback_on_step_end=stop)
        assert steps == [0, 1] and result.images[0].size == (32, 32)


def test_detail_is_the_photo_s_own(pipe: MGIEPipeline):
    """Brought down to the size of the editing, the picture is the edit."""
    values = np.random.default_rng(3).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    small = pipe(picture, "darker", seed=0, output_type="np").images[0] * 255
    fine = pipe(picture, "darker", seed=0, detail=True).images[0]
    assert fine.size == (128, 128)
    away = np.abs(np.asarray(fine.resize((64, 64), Image.Resampling.BOX), float) - small).mean()
    # Clipped at black and white; measured 3 to 6.
    assert away < 12
    same = photo().resize((64, 64))
    plain, asked = (pipe(same, "darker", seed=0, detail=detail).images[0] for detail in (False, True))
    assert plain == asked
    for told in ({"output_type": "pt"}, {"compat": "reference"}):
        with pytest.raises(ConfigError, match="detail is a photo's own"):
            pipe(picture, "darker", seed=0, detail=True, **told)
