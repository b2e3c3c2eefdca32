import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PixArtTransformer2DModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from mgie.build import build_editor, build_release
from mgie.config import RunConfig, load_run
from mgie.diffusion.process import VarianceProcess
from mgie.diffusion.solver import UniformDPMSolverScheduler
from mgie.models.codec import Codec
from mgie.models.denoisers.pixart import PixArtDenoiser
from mgie.models.editor import Editor
from mgie.models.encoders.fusion import FeatureFusion
from mgie.models.encoders.qformer_t5 import QFormerT5Encoder
from mgie.pipeline import MGIEPipeline
from mgie.prepare import prepare
from mgie.prompts import MigePrompts
from mgie.weights.release import Release, write_release

T5_WORDS = (
    *("<pad>", "</s>", "<unk>", "replace", "the", "circle", "in", "by", "red", "square", "make", "it"),
    *("dark", "follow", "instruction", "to", "edit", "image", "editing", "text", "a", "with"),
)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """A small data set of the toy world on disk."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    prepare("toy", folder, seed=3, count=48, test=12, size=64, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(toy_data) -> Callable[..., RunConfig]:
    """The recipe `tiny` on the small data set, short: batches of 4, one thread. Takes the folder of its runs
    and `--a.b=value`."""

    def make(out: Path, *overrides: str, samples: int = 16) -> RunConfig:
        fixed = {
            "data.path": toy_data, "data.workers": 0, "out": out, "train.samples": samples,
            "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1,
            "log.every": 4, "save.every": 8, "preview.every": 0,
        }  # fmt: skip
        return load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()] + list(overrides))

    return make


@pytest.fixture
def tiny_run(tiny_recipe, tmp_path) -> Callable[..., RunConfig]:
    """The same in a folder of the test's own."""
    return partial(tiny_recipe, tmp_path / "runs")


@pytest.fixture(scope="session")
def release() -> Release:
    run = load_run("tiny")
    return build_release(build_editor(run), run)


@pytest.fixture
def pipe(release: Release) -> MGIEPipeline:
    """At the recipe's settings, but saying little."""
    pipeline = MGIEPipeline.from_release(release)
    pipeline.register_to_config(max_new_tokens=6)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP model as transformers writes it: random, small, for pictures of 224 pixels and 12 tokens."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["a", "b", "c", "d", "e", "r", "a</w>", "d</w>", "e</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    text = small | {"vocab_size": 11, "max_position_embeddings": 12, "eos_token_id": 10, "bos_token_id": 9}
    vision = small | {"image_size": 224, "patch_size": 56}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory) -> Path:
    """A vision transformer as the hub has DINO's: with an epsilon and a processor that are not DINO's."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=32,
        layer_norm_eps=1e-12,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return folder


def small_mige() -> Release:
    """MIGE of a few thousand random parameters, for pictures of 32 pixels; its fusion is trained a little."""
    torch.manual_seed(0)
    vision = Blip2VisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28,
        patch_size=14,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        encoder_hidden_size=16, max_position_embeddings=8, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    text = T5Config(
        vocab_size=len(T5_WORDS), d_model=24, d_kv=8, num_heads=2, d_ff=32, num_layers=2, dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    fusion = FeatureFusion(16, 16, heads=2)
    encoder = QFormerT5Encoder(
        Blip2VisionModel(vision),
        Blip2QFormerModel(qformer),
        fusion,
        T5EncoderModel(text),
        queries=3,
        length=48,
    )
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=8, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=16, patch_size=2, norm_elementwise_affine=False,
        caption_channels=24, interpolation_scale=1, use_additional_conditions=False,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
    )  # fmt: skip
    with torch.no_grad():
        for each in (encoder.query_tokens, encoder.null, fusion.mlp.weight, transformer.proj_out.weight):
            each.normal_()
        for layer in encoder.vision.encoder.layers:
            layer.self_attn.qkv.bias.chunk(3)[1].zero_()  # as the published towers are
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(T5_WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    view = {"edge": 28, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    schedule = DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return Release(
        editor=Editor(
            encoder=encoder, denoiser=PixArtDenoiser(transformer), codec=Codec(vae, source_scaled=True)
        ).eval(),
        prompts=MigePrompts(words, queries=3, most=48, **view),
        process=VarianceProcess(schedule), scheduler=UniformDPMSolverScheduler(),
        settings={"size": 32, "num_inference_steps": 2, "guidance_scale": 5.0, "image_guidance_scale": 1.0},
    )  # fmt: skip


@pytest.fixture
def mige() -> Release:
    return small_mige()


@pytest.fixture(scope="session")
def mige_folder(tmp_path_factory) -> Path:
    """The same as the folder of a release."""
    return write_release(small_mige(), tmp_path_factory.mktemp("mige") / "release")
