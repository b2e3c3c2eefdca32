"""A LLaVA of a few thousand parameters around the real tokenizer of tests/golden."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from llava_patch import ClipImageConfig, Llava, LlavaConfig, LlavaTokenizer, Processor, save_llava
from llava_patch.tokens import IMAGE_TOKENS, ImageTokens

TOKENIZER = Path(__file__).parent.parent / "golden" / "mgie" / "tokenizer"


@pytest.fixture
def bare_tokenizer() -> LlavaTokenizer:
    """As in a Vicuna folder: no image tokens."""
    return LlavaTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture
def tokenizer(bare_tokenizer: LlavaTokenizer) -> LlavaTokenizer:
    """As in a LLaVA folder."""
    bare_tokenizer.add_tokens(IMAGE_TOKENS)
    return bare_tokenizer


@pytest.fixture
def config(tokenizer: LlavaTokenizer) -> LlavaConfig:
    return LlavaConfig(
        language=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=0,
        ),
        vision=CLIPVisionConfig(
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        vision_tower="vision_tower",
        vision_layer=-2,
        use_im_start_end=True,
    )


@pytest.fixture
def model(config: LlavaConfig, tokenizer: LlavaTokenizer) -> Llava:
    """Random, and decided: a fresh model's logits are so close that rounding would choose the words."""
    model = Llava.from_config(config, ImageTokens.of(tokenizer, use_im_start_end=True)).eval()
    generator = torch.Generator().manual_seed(1)
    for value in model.parameters():
        if value.ndim > 1:
            value.data.normal_(0, value[0].numel() ** -0.5, generator=generator)
    model.language_model.model.embed_tokens.weight.data.mul_(4)
    return model


@pytest.fixture
def processor(config: LlavaConfig, tokenizer: LlavaTokenizer) -> Processor:
    return Processor(tokenizer, ClipImageConfig.clip(config.image_size), config.patches, "brief", True)


@pytest.fixture
def clip_pixels(config: LlavaConfig) -> Callable[[int], torch.Tensor]:
    """Random pictures as CLIP sees them."""

    def draw(count: int) -> torch.Tensor:
        side = config.image_size
        return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))

    return draw


@pytest.fixture
def folder(model: Llava, tokenizer: LlavaTokenizer, tmp_path: Path) -> Path:
    """A LLaVA folder with its tower inside."""
    save_llava(model, tokenizer, tmp_path / "llava")
    return tmp_path / "llava"
