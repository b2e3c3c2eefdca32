"""Words alone on disk: Stable Diffusion's text encoder and its tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CLIPTokenizer

from llava_patch.loading import Dtypes
from mgie.errors import ConfigError, WeightsError
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.prompts import Compat, WordsPrompts
from mgie.weights.diffusers_parts import load_text_model
from mgie.weights.parts import AbstractEncoderPart, dtype_of, resolve

TEXT_ENCODER, TOKENIZER = "text_encoder", "tokenizer"
FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""What a tokenizer is read from, the one or the others."""


@dataclass(frozen=True, kw_only=True)
class ClipTextSettings:
    """What a recipe says of it."""

    kind: Literal["clip"] = "clip"
    diffusion: str
    """Diffusers folder with text_encoder/ and tokenizer/."""


class ClipTextPart(AbstractEncoderPart):
    """The folders text_encoder/ and tokenizer/."""

    kind = "clip"
    settings = ClipTextSettings
    makes = ClipTextEncoder
    about = (
        "A text encoder reads the words and sees no picture (CLIP: Radford et al., Learning Transferable\n"
        "Visual Models From Natural Language Supervision, ICML 2021)."
    )

    def build(
        self,
        settings: ClipTextSettings,
        *,
        condition_width: int,
        seed: int,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[ClipTextEncoder, WordsPrompts]:
        """Both as they are in the folder; nothing is new."""
        del seed, progress
        encoder, prompts = _read(Path(resolve(settings.diffusion)), dtype, compat)
        if encoder.condition_width != condition_width:
            raise WeightsError(
                f"the text encoder of {settings.diffusion} has width {encoder.condition_width}, and the "
                f"denoiser takes {condition_width}: use parts that were trained together."
            )
        return encoder, prompts

    def save(self, encoder: ClipTextEncoder, prompts: WordsPrompts, folder: Path) -> dict[str, Any]:
        """As diffusers writes them."""
        encoder.text_model.save_pretrained(folder / TEXT_ENCODER)
        prompts.tokenizer.save_pretrained(folder / TOKENIZER)
        return {}

    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        attention: str = "sdpa",
        progress: bool = False,
    ) -> tuple[ClipTextEncoder, WordsPrompts]:
        """Read strictly."""
        del facts, attention, progress
        return _read(folder, dtype, compat)


def _read(folder: Path, dtype: Dtypes, compat: Compat) -> tuple[ClipTextEncoder, WordsPrompts]:
    """Text encoder and tokenizer of a folder. Raises ConfigError and WeightsError."""
    if compat != "default":
        raise ConfigError(f"compat={compat!r} is for MGIE's encoder: an encoder of words has no such way.")
    text_model = load_text_model(folder, dtype=dtype_of(dtype, TEXT_ENCODER))
    tokenizer = read_tokenizer(folder / TOKENIZER)
    if len(tokenizer) > text_model.config.vocab_size:
        raise WeightsError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens, the text encoder knows "
            f"{text_model.config.vocab_size}: use parts that belong together."
        )
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    encoder = ClipTextEncoder(text_model, silent_ids=(begin, end), begin=begin, end=end, pad=pad)
    return encoder, WordsPrompts(tokenizer, most=text_model.config.max_position_embeddings - 2)


def read_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer of a folder. Raises WeightsError."""
    # Without its files the library makes one that knows no words.
    if not any(all((folder / name).is_file() for name in names) for names in FILES):
        told = " or ".join(" and ".join(names) for names in FILES)
        raise WeightsError(f"{folder} holds no tokenizer of CLIP: expected {told}; fetch it again.")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library and its tokenizers have no one type for files that are none
        raise WeightsError(
            f"{folder} holds no tokenizer of CLIP ({type(error).__name__}: {error}); fetch it again."
        ) from error
