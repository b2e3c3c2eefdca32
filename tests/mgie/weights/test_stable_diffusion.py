"""Folders that diffusers wrote, at a tiny size, opened and compared with its own pipeline."""

from pathlib import Path
from shutil import copytree

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline
from small_pipelines import WIDTH, new_tokenizer, small_sd

from mgie.diffusion.sampling import sample
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.pipeline import MGIEPipeline
from mgie.weights.parts import encoder_part
from mgie.weights.release import Release, read_release, write_release
from mgie.weights.stable_diffusion import is_stable_diffusion, read_stable_diffusion

# What the library's scheduler does to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PLACES = 12
CLOSE = 1e-6
"""Of latents, relative to the greatest value. Worst measured: 4e-7, without guidance 0."""
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SAMPLERS = {
    "pndm": PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
    "ddim": DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "euler": EulerDiscreteScheduler(**BETAS, steps_offset=1),
}


def new_pipeline(sampler: str = "pndm", **marks: str) -> StableDiffusionPipeline:
    """Stable Diffusion, small and of random weights."""
    return small_sd(SAMPLERS[sampler], places=PLACES, outside=True, **marks)


def saved(pipeline: StableDiffusionPipeline, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return saved(new_pipeline(), tmp_path_factory.mktemp("sd") / "folder")


def painted(release: Release, prompts: list[str], *, steps: int, guidance: float) -> torch.Tensor:
    """Latents of new pictures, painted by our parts."""
    editor = release.editor
    asked = release.prompts.asked(
        [release.prompts.question(prompt, sizes=[]) for prompt in prompts],
        [release.prompts.clip_pixels(None) for _ in prompts],
    )
    answer = editor.encoder.answer(asked, max_new_tokens=1, no_repeat_ngram_size=0)
    shape = (len(prompts), 4, 8, 8)
    with torch.no_grad():
        return sample(
            editor.denoiser,
            release.process.steps(release.scheduler, steps, tokens=64),
            shape,
            None,
            answer.context,
            guidance=guidance,
            image_guidance=1.5,
            generators=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        )


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"], ids=["first", "second"])
def test_new_pictures_are_those_of_the_librarys_own_pipeline(sampler, guidance, pad, tmp_path):
    """`pad`: Stable Diffusion 1's, and 2's."""
    theirs = new_pipeline(sampler, pad_token=pad)
    theirs.set_progress_bar_config(disable=True)
    release = read_stable_diffusion(saved(theirs, tmp_path / "sd"))
    prompts = ["a red cat", "an odd"]
    expected = theirs(
        prompts,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        output_type="latent",
    ).images
    latents = painted(release, prompts, steps=4, guidance=guidance)
    assert (latents - expected).abs().max() <= CLOSE * expected.abs().max()
    pixels = theirs.vae.decode(expected / theirs.vae.config.scaling_factor).sample
    assert torch.allclose(release.editor.codec.decode(expected), pixels, atol=CLOSE)


def test_it_becomes_a_pipeline_and_a_release_of_ours(folder, tmp_path):
    release = read_stable_diffusion(folder)
    pipeline = MGIEPipeline.from_release(release)
    assert (pipeline.size, pipeline.config.num_inference_steps) == (16, 50)
    pipeline.save_pretrained(tmp_path / "ours")
    again = read_release(tmp_path / "ours")
    ours, theirs = again.editor.state_dict(), release.editor.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert type(again.scheduler) is PNDMScheduler
    first, second = (painted(each, ["a cat"], steps=2, guidance=3.0) for each in (release, again))
    assert torch.equal(first, second)


def test_a_picture_before_the_edit_is_refused(folder):
    editor = read_stable_diffusion(folder).editor
    nothing = torch.zeros(1, PLACES - 1)
    told = editor.encoder.read(nothing.long(), nothing.bool()).condition
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([1])
    assert editor.denoiser(noisy, t, None, told).mean.shape == noisy.shape
    with pytest.raises(DataError, match="this UNet cannot see one"):
        editor.denoiser(noisy, t, noisy, told)


def test_a_text_that_is_too_long_is_refused_not_cut(folder):
    prompts = read_stable_diffusion(folder).prompts
    assert len(prompts.question("a" * (PLACES - 2), sizes=[]).input_ids) == PLACES - 2
    with pytest.raises(DataError, match=f"has {PLACES - 1} tokens, and the text encoder reads {PLACES - 2}"):
        prompts.question("a" * (PLACES - 1), sizes=[])


def test_the_pooled_state_of_a_phrase_is_that_behind_its_words(folder):
    release = read_stable_diffusion(folder)
    theirs = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    questions = [release.prompts.question(text, sizes=[]) for text in ("a red cat", "b")]
    with torch.no_grad():
        answer = release.editor.encoder.answer(
            release.prompts.asked(questions, [release.prompts.clip_pixels(None)] * 2),
            max_new_tokens=1, no_repeat_ngram_size=0,
        )  # fmt: skip
        asked = theirs.tokenizer(
            ["a red cat", "b"], padding="max_length", max_length=PLACES, return_tensors="pt"
        ).input_ids
        expected = theirs.text_encoder(asked).last_hidden_state
    assert torch.equal(answer.context.condition.tokens, expected)
    at = (asked == theirs.tokenizer.eos_token_id).int().argmax(1)
    assert torch.equal(answer.pooled, expected[torch.arange(2), at])


def test_words_of_training_are_read_as_those_of_use(folder):
    release = read_stable_diffusion(folder)
    told = release.prompts.conversation("make it", "a red cat", sizes=[], max_length=50)
    asked = release.prompts.question("make it", sizes=[])
    assert told.labels == told.input_ids == asked.input_ids
    with pytest.raises(DataError):
        release.prompts.conversation("make it", "a red cat", sizes=[], max_length=3)


def test_other_folders(folder, release, tmp_path):
    assert is_stable_diffusion(folder)
    write_release(release, tmp_path / "ours")
    assert not is_stable_diffusion(tmp_path / "ours")
    assert not is_stable_diffusion(tmp_path)
    with pytest.raises(WeightsError, match="holds a MGIEPipeline: expected a StableDiffusionPipeline or"):
        read_stable_diffusion(tmp_path / "ours")


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (
            "tokenizer/tokenizer.json",
            None,
            "holds no tokenizer of CLIP: expected tokenizer.json or vocab.json",
        ),
        ("tokenizer/tokenizer.json", "{", "holds no tokenizer of CLIP"),
        ("text_encoder/config.json", None, "text_encoder cannot be loaded"),
        ("unet/diffusion_pytorch_model.safetensors", "", "unet cannot be loaded from"),
    ],
)
def test_what_is_missing_or_damaged_is_said(file, content, told, folder, tmp_path):
    where = copytree(folder, tmp_path / "sd")
    (where / file).unlink() if content is None else (where / file).write_text(content)
    with pytest.raises(WeightsError, match=told):
        read_stable_diffusion(where)


def test_a_tokenizer_of_more_words_than_are_known(folder, tmp_path):
    where = copytree(folder, tmp_path / "sd")
    tokenizer = new_tokenizer()
    tokenizer.add_tokens(["cat"])
    tokenizer.save_pretrained(where / "tokenizer")
    with pytest.raises(WeightsError, match="has 61 tokens, the text encoder knows 60"):
        read_stable_diffusion(where)


def test_as_a_part_of_a_recipe(folder):
    part = encoder_part("clip")
    settings = part.settings(diffusion=str(folder))
    encoder, _ = part.build(settings, condition_width=WIDTH, seed=0)
    assert encoder.condition_width == WIDTH
    with pytest.raises(WeightsError, match="has width 16, and the denoiser takes 8"):
        part.build(settings, condition_width=8, seed=0)
    with pytest.raises(ConfigError, match="'reference' is for MGIE's encoder"):
        part.build(settings, condition_width=WIDTH, seed=0, compat="reference")
