"""The pipeline on the recipe's own small parts, before any training."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from PIL import Image

from mgie.data.examples import ExampleBuilder
from mgie.data.images import decode, fitted_size
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.pipeline import MGIEPipeline
from mgie.tokens import visual_tokens
from mgie.types import ControlPlan
from mgie.weights.release import Release

CLOSE = 2e-5
"""How far numbers of one picture may be apart when others are computed beside it; worst measured: 3e-6."""


def photo(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Smooth noise: a picture that survives a resize."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def hear(pipe: MGIEPipeline, monkeypatch: pytest.MonkeyPatch, script: Sequence[str]) -> None:
    """Make the language model say `script` to everybody, whatever it is asked."""
    tokenizer = pipe.prompts.processor.tokenizer
    spoken = iter([tokenizer.id_of(word) for word in script])

    def scores(states: torch.Tensor) -> torch.Tensor:
        chosen = torch.zeros(*states.shape[:-1], pipe.encoder.llava.vocabulary)
        chosen[..., next(spoken)] = 1
        return chosen

    monkeypatch.setattr(pipe.encoder.llava.language_model.lm_head, "forward", scores)


# What comes out.


def test_one_picture_comes_back_with_what_was_said(pipe: MGIEPipeline):
    result = pipe(photo(), "make it darker", seed=0)
    (image,), (said,), (forced,) = result.images, result.said, result.forced
    assert image.size == (64, 64) and image.mode == "RGB"
    assert isinstance(said, str) and not set(visual_tokens(8)) & set(said.split())
    assert forced is True  # untrained: it never comes to the visual tokens
    assert result.images is result["images"]
    assert pipe(photo(), "make it darker", seed=0, return_dict=False)[1] == [said]


def test_visual_tokens_that_are_said_are_not_forced(pipe: MGIEPipeline, monkeypatch):
    hear(pipe, monkeypatch, ["▁the", "[IMG0]"])
    result = pipe(photo(), "make it darker", seed=0)
    assert (result.said, result.forced) == (["the"], [False])


def test_nothing_said_is_an_empty_text(pipe: MGIEPipeline, monkeypatch):
    for compat in ("default", "reference"):
        hear(pipe, monkeypatch, ["</s>"])
        result = pipe(photo(), "make it darker", seed=0, compat=compat)
        assert (result.said, result.forced) == ([""], [True])


def test_the_same_seed_gives_the_same_picture_and_another_one_does_not(pipe: MGIEPipeline):
    first, again, other = (
        np.asarray(pipe(photo(), "make it darker", seed=seed).images[0]) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_words_picture_and_scales_matter(pipe: MGIEPipeline):
    def edited(picture=None, prompt="make it darker", **options):
        return pipe(picture or photo(), prompt, seed=1, output_type="pt", **options).images

    plain = edited()
    assert not torch.equal(plain, edited(photo(seed=5)))
    assert not torch.equal(plain, edited(prompt="make the background pink, please"))
    assert not torch.equal(plain, edited(image_guidance_scale=2.0))
    assert not torch.equal(plain, edited(guidance_scale=2.0))
    assert not torch.equal(plain, edited(num_inference_steps=3))


# Several at once.

BATCH = (
    ("make it black and white", 32, 32),
    ("remove the big circle on the left, then make everything else darker", 48, 24),
    ("darker", 32, 32),
)


def test_each_picture_becomes_what_it_becomes_alone(pipe: MGIEPipeline):
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)  # draws noise in every step
    options = {"output_type": "latent", "guidance_scale": 3.0, "image_guidance_scale": 1.5}
    pictures = [photo(width, height, seed) for seed, (_, width, height) in enumerate(BATCH)]
    prompts = [prompt for prompt, *_ in BATCH]
    together = pipe(pictures, prompts, seed=[3, 4, 5], **options)
    for row, (picture, prompt) in enumerate(zip(pictures, prompts)):
        alone = pipe(picture, prompt, seed=3 + row, **options)
        assert together.said[row] == alone.said[0]
        assert together.forced[row] == alone.forced[0]
        away = (together.images[row] - alone.images[0]).abs().max()
        assert away < CLOSE * alone.images[0].abs().max()


def test_one_seed_serves_each_picture_as_if_it_were_alone(pipe: MGIEPipeline):
    pictures = [photo(), photo()]
    one, other = pipe(pictures, "make it darker", seed=7, output_type="latent").images
    assert torch.allclose(one, other, atol=1e-5)


def test_one_instruction_serves_several_pictures(pipe: MGIEPipeline):
    assert len(pipe([photo(), photo(80, 64)], "make it darker", seed=0).images) == 2


def test_one_picture_serves_several_instructions(pipe: MGIEPipeline):
    words = ["make it darker", "red"]
    together = pipe(photo(), words, seed=0, output_type="pt").images
    alone = [pipe(photo(), each, seed=0, output_type="pt").images[0] for each in words]
    assert torch.allclose(together, torch.stack(alone), atol=CLOSE)
    with pytest.raises(DataError, match="0 pictures and 0 instructions"):
        pipe(photo(), [])


def test_a_generator_per_picture_is_a_seed_per_picture(pipe: MGIEPipeline):
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    pictures = [photo(), photo(seed=1)]
    by_generator = pipe(pictures, "darker", generator=generators, output_type="pt").images
    assert torch.equal(by_generator, pipe(pictures, "darker", seed=[3, 4], output_type="pt").images)


# Any size.


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        ((512, 512), 64, (512, 512)),
        ((64, 64), 64, (512, 512)),
        ((4000, 3000), 64, (576, 448)),
        ((3000, 4000), 64, (448, 576)),
        ((10000, 10), 64, (16192, 64)),
    ],
)
def test_pictures_are_edited_at_about_the_trained_area_in_their_own_shape(size, multiple, expected):
    assert fitted_size(size, side=512, multiple=multiple) == expected


@pytest.mark.parametrize(("width", "height"), [(64, 64), (61, 40), (17, 90), (3, 5), (400, 300)])
def test_a_photo_comes_back_whole_at_its_size(pipe: MGIEPipeline, width: int, height: int):
    seen = []
    given = {"seed": 0, "callback_on_step_end": lambda *step: seen.append(step[3]["latents"].shape)}
    assert pipe(photo(width, height), "make it darker", **given).images[0].size == (width, height)
    factor = pipe.codec.space.factor
    latent = [factor * side for side in seen[0][-2:]]
    assert latent[::-1] == list(fitted_size((width, height), side=64, multiple=pipe._limits.multiple))
    assert all(side % pipe._limits.multiple == 0 for side in latent)


def test_a_square_of_the_trained_size_is_not_resampled(pipe: MGIEPipeline):
    picture = photo()
    ((fitted, _),) = pipe._fitted([picture], pipe._sampling(num_inference_steps=1, max_new_tokens=1))
    assert fitted == picture


def test_another_size_of_editing_can_be_asked_for(pipe: MGIEPipeline):
    assert pipe(photo(), "make it darker", seed=0, size=128, output_type="pt").images.shape[-2:] == (128, 128)
    assert pipe(photo(), "make it darker", seed=0, size=128).images[0].size == (64, 64)


def test_all_see_the_same_whole_picture_unless_the_reference_s_crop_is_wanted(pipe: MGIEPipeline):
    """Quirk Q9: the reference's language model sees the centre square, its UNet the whole."""
    picture = photo(192, 64)
    outside = picture.copy()
    outside.paste((0, 0, 0), (0, 0, 40, 64))  # beyond the centre square
    for compat, blind in (("default", False), ("reference", True)):
        options = pipe._sampling(num_inference_steps=1, max_new_tokens=1, compat=compat)
        builder = ExampleBuilder(pipe.prompts, size=64, max_length=1, compat=compat)
        assert torch.equal(*map(builder.clip_pixels, (picture, outside))) is blind
        pixels = [np.asarray(fitted) for fitted, _ in pipe._fitted([picture, outside], options)]
        assert not np.array_equal(*pixels)


def test_the_reference_edits_at_the_photo_s_own_size(pipe: MGIEPipeline):
    result = pipe(photo(81, 65), "make it darker", seed=0, compat="reference")
    assert result.images[0].size == (80, 64)
    with pytest.raises(DataError, match="1 x 40 pixels is too small: expected at least 8 x 8"):
        pipe(photo(1, 40), "make it darker", seed=0, compat="reference")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_colour_modes_are_brought_to_rgb(pipe: MGIEPipeline, mode: str):
    assert pipe(photo().convert(mode), "make it darker", seed=0).images[0].mode == "RGB"


# In other forms.


def test_tensors_and_arrays_are_the_picture_before_it_is_brought_back(pipe: MGIEPipeline):
    def edited(kind: str, *sizes: tuple[int, int]):
        return pipe([photo(*size) for size in sizes], "darker", seed=0, output_type=kind).images

    tensor, array = edited("pt", (64, 64)), edited("np", (64, 64))
    assert tensor.shape == (1, 3, 64, 64) and 0 <= tensor.min() <= tensor.max() <= 1
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    levels = np.asarray(pipe(photo(), "darker", seed=0).images[0])
    assert np.abs(levels - array[0] * 255).max() <= 0.51
    assert edited("latent", (64, 64)).shape == (1, *pipe.codec.latent_shape(64, 64))
    assert [image.shape[-1] for image in edited("pt", (64, 64), (128, 32))] == [64, 128]


def test_latents_can_be_watched_and_changed(pipe: MGIEPipeline):
    steps = []

    def watch(pipeline, step, t, given):
        assert pipeline is pipe
        steps.append((step, int(t)))
        return {"latents": torch.zeros_like(given["latents"])}

    result = pipe(photo(), "darker", seed=0, output_type="latent", callback_on_step_end=watch)
    assert [step for step, _ in steps] == [0, 1]
    assert not result.images.any()


# The library's solver speaks to numpy in a way that numpy is about to change.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_other_schedulers_can_be_put_in(pipe: MGIEPipeline):
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, rescale_betas_zero_snr=False, prediction_type="epsilon"
    )
    assert pipe(photo(), "darker", seed=0, num_inference_steps=3).images[0].size == (64, 64)


def test_offloaded_parts_are_brought_back_when_they_are_needed(pipe: MGIEPipeline):
    """Several parts work through other methods than `forward`, at which the library would bring them."""
    plain = pipe(photo(), "make it dark", seed=1).images[0]
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert pipe(photo(), "make it dark", seed=1).images[0] == plain
    pipe.remove_all_hooks()


def test_layers_are_not_offloaded_one_by_one(pipe: MGIEPipeline):
    """It would fail in the middle of an edit, deep in a library; the sentence names what works."""
    plain = pipe(photo(), "make it dark", seed=1).images[0]
    with pytest.raises(ConfigError, match=r"expected enable_model_cpu_offload\(\), which brings one part"):
        pipe.enable_sequential_cpu_offload(device="cpu")
    assert {value.device.type for value in pipe.editor.parameters()} == {"cpu"}  # as they were, not "meta"
    assert pipe(photo(), "make it dark", seed=1).images[0] == plain


def test_an_open_file_is_the_picture_that_its_bytes_are(pipe: MGIEPipeline):
    """Turned as its EXIF data says, transparency on white, 16 bits reduced to 8; the reference converts."""
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = photo().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((64, 64)))
    deep = Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257)
    for image, kind, extra in (
        (photo(128, 64), "JPEG", {"exif": turned}),
        (clear, "PNG", {}),
        (deep, "PNG", {}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **extra)
        whole = decode(file.getvalue(), name="it")
        (ours,), (wanted,) = (pipe(each, "darker", seed=0).images for each in (Image.open(file), whole))
        assert ours.size == whole.size and ours == wanted
        plain = Image.open(file).convert("RGB")
        (ours,), (wanted,) = (
            pipe(each, "darker", seed=0, compat="reference").images for each in (Image.open(file), plain)
        )
        assert ours == wanted


def test_half_precision(pipe: MGIEPipeline, release: Release):
    try:
        assert pipe.to(torch.bfloat16) is pipe
        assert {value.dtype for value in pipe.editor.parameters()} == {torch.bfloat16}
        assert pipe(photo(), "darker", seed=0).images[0].size == (64, 64)
    finally:
        release.editor.to(torch.float32)


@pytest.mark.parametrize("part", ["encoder.llava", "encoder.edit_head", "denoiser", "codec"])
def test_one_part_in_half_precision(pipe: MGIEPipeline, release: Release, part: str):
    """Each hands over to the next in the next one's type."""
    whole = pipe(photo(), "darker", seed=0, output_type="pt").images
    try:
        release.editor.get_submodule(part).to(torch.bfloat16)
        half = pipe(photo(), "darker", seed=0, output_type="pt").images
    finally:
        release.editor.get_submodule(part).to(torch.float32)
    assert 0 < (half - whole).abs().max() < 0.1


def test_what_was_imagined_can_be_painted_again(pipe: MGIEPipeline):
    pictures, words = [photo(), photo(40, 24, seed=1)], ["make it dark", "invert it"]
    imagined = pipe.imagine(pictures, words)
    whole = pipe(pictures, words, seed=[3, 4])
    assert imagined.said == whole.said and imagined.forced == whole.forced
    assert pipe.paint(pictures, imagined, seed=[3, 4]) == whole.images
    assert pipe.paint(pictures, imagined, seed=5) == pipe(pictures, words, seed=5).images
    one = pipe.imagine(photo(), words)
    assert pipe.paint(photo(), one, seed=5) == pipe(photo(), words, seed=5).images
    with pytest.raises(DataError, match="there are 1 pictures and 2 were imagined"):
        pipe.paint([photo()], imagined)


def test_a_plan_acts_on_the_latents_and_where_words_count(pipe: MGIEPipeline):
    picture = photo()
    imagined = pipe.imagine(picture, "make it dark")
    options = {"seed": 0, "output_type": "latent", "guidance_scale": 3.0, "image_guidance_scale": 1.5}
    plain = pipe.paint(picture, imagined, **options)
    assert torch.equal(pipe.paint(picture, imagined, plan=ControlPlan(), **options), plain)
    nothing = ControlPlan(blend=lambda latents, _: latents * 0)
    assert not pipe.paint(picture, imagined, plan=nothing, **options).any()
    map = torch.full((1, 1, *plain.shape[-2:]), 3.0)
    same = pipe.paint(picture, imagined, plan=ControlPlan(guidance=map), **options)
    assert torch.allclose(same, plain, atol=1e-5)
    map[..., : plain.shape[-1] // 2] = 0.0
    assert not torch.allclose(pipe.paint(picture, imagined, plan=ControlPlan(guidance=map), **options), plain)
    with pytest.raises(DataError, match="a plan is for pictures of one size"):
        two = [picture, photo(64, 24)]
        pipe.paint(two, pipe.imagine(two, "make it dark"), plan=nothing)


def test_two_threads_on_one_pipeline_give_what_one_after_the_other_gives(pipe: MGIEPipeline):
    requests = [
        {"image": photo(), "prompt": "make it dark", "seed": 1, "num_inference_steps": 5},
        {"image": photo(40, 24, seed=2), "prompt": "invert the photo", "seed": 2, "num_inference_steps": 2},
    ] * 2
    alone = [pipe(**request, output_type="pt").images for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda request: pipe(**request, output_type="pt").images, requests))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_settings_of_a_newer_release(release: Release):
    newer = replace(release, settings={**release.settings, "colours": 3})
    with pytest.raises(WeightsError, match="the settings colours, which this version of mgie does not know"):
        MGIEPipeline.from_release(newer)
