"""Folders of Stable Diffusion XL, at a tiny size, opened and compared with the library's own pipeline."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mgie.diffusion.sampling import sample
from mgie.errors import ConfigError, WeightsError
from mgie.pipeline import MGIEPipeline
from mgie.weights.release import Release, read_release
from mgie.weights.stable_diffusion import read_stable_diffusion

# What the library's scheduler does to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PLACES, WIDTHS, POOLED = 12, (16, 8), 12
CLOSE = 1e-6
"""Of latents, relative to the greatest value. Worst measured: 4e-7."""
LETTERS = [*"!abcdefghijklmnopqrstuvwxyz"]
NAMES = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]


def new_tokenizer(pad: str) -> CLIPTokenizer:
    vocab = {name: place for place, name in enumerate(NAMES)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], pad_token=pad)
    tokenizer.model_max_length = PLACES
    return tokenizer


def new_text(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(NAMES), hidden_size=width, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=PLACES, projection_dim=POOLED,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip


def new_pipeline(**how) -> StableDiffusionXLPipeline:
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=sum(WIDTHS), attention_head_dim=2, transformer_layers_per_block=2,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + POOLED,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, scaling_factor=0.13025,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(
        vae=vae, text_encoder=CLIPTextModel(new_text(WIDTHS[0])).eval(),
        text_encoder_2=CLIPTextModelWithProjection(new_text(WIDTHS[1])).eval(),
        tokenizer=new_tokenizer("<|endoftext|>"), tokenizer_2=new_tokenizer("!"), unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False, **how,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sdxl") / "folder"
    new_pipeline().save_pretrained(folder)
    return folder


def painted(release: Release, prompts: list[str], *, size: tuple[int, int], guidance: float) -> torch.Tensor:
    editor = release.editor
    asked = release.prompts.asked(
        [release.prompts.question(prompt, sizes=[]) for prompt in prompts],
        [release.prompts.clip_pixels(None) for _ in prompts],
    )
    answer = editor.encoder.answer(asked, max_new_tokens=1, no_repeat_ngram_size=0)
    with torch.no_grad():
        return sample(
            editor.denoiser,
            release.process.steps(release.scheduler, 4, tokens=64),
            (len(prompts), 4, size[0] // 2, size[1] // 2),
            None,
            editor.encoder.at_size(answer.context, size),
            guidance=guidance,
            image_guidance=1.5,
            generators=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        )


@pytest.mark.parametrize("silent", [True, False], ids=["zeros", "empty-text"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_new_pictures_are_those_of_the_librarys_own_pipeline(silent, guidance, size, tmp_path):
    torch.manual_seed(0)
    theirs = new_pipeline(force_zeros_for_empty_prompt=silent)
    theirs.save_pretrained(tmp_path / "sdxl")
    release = read_stable_diffusion(tmp_path / "sdxl")
    prompts = ["a red cat", "an odd"]
    expected = theirs(
        prompts, height=size[0], width=size[1], num_inference_steps=4, guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))], output_type="latent",
    ).images  # fmt: skip
    latents = painted(release, prompts, size=size, guidance=guidance)
    assert (latents - expected).abs().max() <= CLOSE * expected.abs().max()


def test_it_becomes_a_pipeline_and_a_release_of_ours(folder, tmp_path):
    release = read_stable_diffusion(folder)
    pipeline = MGIEPipeline.from_release(release)
    assert (pipeline.size, pipeline.config.guidance_scale) == (16, 5.0)
    pipeline.save_pretrained(tmp_path / "ours")
    again = read_release(tmp_path / "ours")
    ours, theirs = again.editor.state_dict(), release.editor.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert again.editor.encoder.pads == release.editor.encoder.pads == (NAMES.index("<|endoftext|>"), 0)
    first, second = (painted(each, ["a cat"], size=(16, 16), guidance=3.0) for each in (release, again))
    assert torch.equal(first, second)


def test_parts_that_do_not_belong_together(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "sdxl")
    path = tmp_path / "sdxl" / "tokenizer_2" / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["vocab"] = dict(zip(told["model"]["vocab"], reversed(told["model"]["vocab"].values())))
    path.write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="know other words"):
        read_stable_diffusion(tmp_path / "sdxl")
    shutil.rmtree(tmp_path / "sdxl" / "text_encoder_2")
    with pytest.raises(WeightsError, match="text_encoder_2 cannot be loaded"):
        read_stable_diffusion(tmp_path / "sdxl")


def test_its_words_know_no_other_way(folder):
    from mgie.weights.sdxl_part import SdxlTextPart

    with pytest.raises(ConfigError, match="compat='reference'"):
        SdxlTextPart().load(folder, {}, compat="reference")
