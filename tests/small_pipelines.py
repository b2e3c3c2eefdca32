"""Diffusers' own pipelines, of random weights and small enough for a test, that read a sentence."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

PLACES, WIDTH, POOLED = 128, 16, 12
LETTERS = [*"!abcdefghijklmnopqrstuvwxyz,."]
NAMES = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def new_tokenizer(places: int = PLACES, **marks: str) -> CLIPTokenizer:
    """CLIP's way with words, each of them spelt; `marks` are tokens such as `pad_token`."""
    tokenizer = CLIPTokenizer(vocab={name: place for place, name in enumerate(NAMES)}, merges=[], **marks)
    tokenizer.model_max_length = places
    return tokenizer


def new_text(places: int = PLACES) -> CLIPTextConfig:
    """Sizes of a text encoder. Begin, end and padding are as in the published file: not the tokenizer's."""
    return CLIPTextConfig(
        vocab_size=len(NAMES), hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=places, projection_dim=POOLED,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip


def new_vae() -> AutoencoderKL:
    """Two pixels of a side to the latent."""
    return AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip


def new_unet(width: int, *, widest: int = 16, outside: bool = False, **more) -> UNet2DConditionModel:
    """Attentions in one of two levels: the inner one, or the one `outside` it."""
    down, up = ["DownBlock2D", "CrossAttnDownBlock2D"], ["CrossAttnUpBlock2D", "UpBlock2D"]
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, widest), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=width, attention_head_dim=2,
        down_block_types=tuple(reversed(down) if outside else down),
        up_block_types=tuple(reversed(up) if outside else up), **more,
    )  # fmt: skip


def small_sd(
    scheduler: SchedulerMixin | None = None, *, places: int = PLACES, widest: int = 16, outside: bool = False,
    **marks: str,
) -> StableDiffusionPipeline:  # fmt: skip
    """Stable Diffusion 1."""
    return StableDiffusionPipeline(
        vae=new_vae(), text_encoder=CLIPTextModel(new_text(places)).eval(),
        tokenizer=new_tokenizer(places, **marks), unet=new_unet(WIDTH, widest=widest, outside=outside),
        scheduler=scheduler or DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def small_sdxl() -> StableDiffusionXLPipeline:
    """Stable Diffusion XL."""
    unet = new_unet(
        2 * WIDTH, transformer_layers_per_block=2, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + POOLED,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=new_vae(), text_encoder=CLIPTextModel(new_text()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(new_text()).eval(),
        tokenizer=new_tokenizer(), tokenizer_2=new_tokenizer(), unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1), add_watermarker=False,
    )  # fmt: skip


KINDS = {"sd15": small_sd, "sdxl": small_sdxl}


def saved(kind: str, folder: Path) -> Path:
    """A pipeline of a kind, as its folder; the same one whenever it is asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        KINDS[kind]().save_pretrained(folder)
    return folder
