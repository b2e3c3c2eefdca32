"""Small pairs and pictures that the tests of this folder share."""

import io

import numpy as np
import pytest
import sentencepiece
from PIL import Image

from llava_patch.processor import LooksConfig, Processor
from llava_patch.tokenizer import LlavaTokenizer, Specials
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
    """A whole processor at tiny size: a sentencepiece vocabulary of its own, 16-pixel looks, four patches."""
    return tiny_processor()


def tiny_processor() -> Processor:
    """See the fixture `processor`."""
    words = "what will this image be like if make it very red USER ASSISTANT It is number 0 1 2 3 4 5 6 7 8 9 . : ' ?"
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
    return Processor(tokenizer, LooksConfig.clip(16), 4, "brief", True)
