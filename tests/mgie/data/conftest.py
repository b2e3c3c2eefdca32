"""Small pairs and pictures that the tests of this folder share."""

import io

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig

from llava_patch.config import LlavaConfig
from llava_patch.model import Llava
from llava_patch.processor import ClipImageConfig, Processor
from llava_patch.tokenizer import LlavaTokenizer, Specials
from llava_patch.tokens import ImageTokens
from llava_patch.weights import save_llava
from mgie.tokens import visual_tokens
from mgie.types import EditPair


def picture(width: int = 12, height: int = 12, seed: int = 0, form: str = "PNG", **options) -> bytes:
    """A picture file of noise."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=form, **options)
    return buffer.getvalue()


def pair(index: int = 0, **changes) -> EditPair:
    """A sound pair, another for each index."""
    values = {
        "key": f"pair-{index}",
        "instruction": f"make it {'very ' * (index % 5)}red",
        "expressive": f"It is red, number {index}.",
        "source": picture(seed=2 * index),
        "target": picture(seed=2 * index + 1),
    }
    return EditPair(**(values | changes))


@pytest.fixture
def make_pair():
    return pair


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture(scope="session")
def processor():
    """A whole processor at tiny size: a vocabulary of its own, 16-pixel pictures, four patches."""
    return tiny_processor()


def tiny_processor() -> Processor:
    """See the fixture `processor`."""
    words = "what will this image be like if make it very red USER ASSISTANT It is number 0123456789 . : ' ?"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([words] * 5),
        model_writer=model,
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    specials = Specials(unk="<unk>", bos="<s>", eos="</s>", pad="<unk>")
    tokenizer = LlavaTokenizer(model.getvalue(), specials=specials, added={})
    tokenizer.add_tokens(["<im_patch>", "<im_start>", "<im_end>", *visual_tokens(4)])
    return Processor(tokenizer, ClipImageConfig.clip(16), 4, "brief", True)


@pytest.fixture(scope="session")
def llava_folder(processor, tmp_path_factory):
    """A LLaVA of a few thousand random parameters on disk, around the tokenizer of `processor`."""
    config = LlavaConfig(
        language=LlamaConfig(
            vocab_size=len(processor.tokenizer),
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
            image_size=16,
            patch_size=8,
        ),
        vision_tower="vision_tower",
        vision_layer=-2,
        use_im_start_end=True,
    )
    model = Llava.from_config(config, ImageTokens.of(processor.tokenizer, use_im_start_end=True))
    generator = torch.Generator().manual_seed(1)
    for value in model.parameters():
        if (
            value.ndim > 1
        ):  # decided: a fresh model's logits are so close that rounding would choose the words
            value.data.normal_(0, value[0].numel() ** -0.5, generator=generator)
    folder = tmp_path_factory.mktemp("llava") / "llava"
    save_llava(model, processor.tokenizer, folder)
    processor.save_pretrained(folder)
    return folder
