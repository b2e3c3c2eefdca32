"""Words alone on disk, as Stable Diffusion XL has them: two text encoders, two tokenizers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CLIPTextModelWithProjection

from llava_patch.loading import Dtypes
from mgie.errors import ConfigError, WeightsError
from mgie.models.encoders.sdxl_text import SdxlTextEncoder
from mgie.prompts import Compat, WordsPrompts
from mgie.weights.clip_part import TEXT_ENCODER, TOKENIZER, read_tokenizer
from mgie.weights.diffusers_parts import load_text_model
from mgie.weights.parts import AbstractEncoderPart, dtype_of, resolve

SECOND = "_2"
"""Behind the names of the second encoder's folders."""


@dataclass(frozen=True, kw_only=True)
class SdxlTextSettings:
    """What a recipe says of it."""

    kind: Literal["sdxl"] = "sdxl"
    diffusion: str
    """Diffusers folder with text_encoder/, text_encoder_2/, tokenizer/ and tokenizer_2/."""


class SdxlTextPart(AbstractEncoderPart):
    """The folders text_encoder/, text_encoder_2/, tokenizer/ and tokenizer_2/."""

    kind = "sdxl"
    settings = SdxlTextSettings
    makes = SdxlTextEncoder
    about = (
        "Two text encoders read the words and see no picture (SDXL: Podell et al., Improving Latent\n"
        "Diffusion Models for High-Resolution Image Synthesis, ICLR 2024)."
    )

    def build(
        self,
        settings: SdxlTextSettings,
        *,
        condition_width: int,
        seed: int,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        progress: bool = False,
    ) -> tuple[SdxlTextEncoder, WordsPrompts]:
        """Both as they are in the folder; nothing is new."""
        del seed, progress
        encoder, prompts = self.load(Path(resolve(settings.diffusion)), {}, compat=compat, dtype=dtype)
        if encoder.condition_width != condition_width:
            raise WeightsError(
                f"the text encoders of {settings.diffusion} have a width of {encoder.condition_width} "
                f"together, and the denoiser takes {condition_width}: use parts that were trained together."
            )
        return encoder, prompts

    def save(self, encoder: SdxlTextEncoder, prompts: WordsPrompts, folder: Path) -> dict[str, Any]:
        """As diffusers writes them."""
        encoder.text_model.save_pretrained(folder / TEXT_ENCODER)
        encoder.text_model_2.save_pretrained(folder / (TEXT_ENCODER + SECOND))
        prompts.tokenizer.save_pretrained(folder / TOKENIZER)
        second = type(prompts.tokenizer).from_pretrained(folder / TOKENIZER)
        second.pad_token = second.convert_ids_to_tokens(encoder.pads[1])
        second.save_pretrained(folder / (TOKENIZER + SECOND))
        return {"silent": encoder.silent}

    def load(
        self,
        folder: Path,
        facts: dict[str, Any],
        *,
        compat: Compat = "default",
        dtype: Dtypes = torch.float32,
        attention: str = "sdpa",
        progress: bool = False,
    ) -> tuple[SdxlTextEncoder, WordsPrompts]:
        """Read strictly. Raises ConfigError and WeightsError."""
        del attention, progress
        if compat != "default":
            raise ConfigError(
                f"compat={compat!r} is for MGIE's encoder: an encoder of words has no such way."
            )
        kind = dtype_of(dtype, TEXT_ENCODER)
        first = load_text_model(folder, dtype=kind)
        second = load_text_model(
            folder, dtype=kind, part=TEXT_ENCODER + SECOND, makes=CLIPTextModelWithProjection
        )
        tokenizers = [read_tokenizer(folder / (TOKENIZER + part)) for part in ("", SECOND)]
        one, other = tokenizers
        if one.get_vocab() != other.get_vocab():
            raise WeightsError(
                f"the two tokenizers of {folder} know other words: expected the same; fetch the folder again."
            )
        for model in (first, second):
            if len(one) > model.config.vocab_size:
                raise WeightsError(
                    f"the tokenizers of {folder} have {len(one)} tokens, a text encoder knows "
                    f"{model.config.vocab_size}: use parts that belong together."
                )
        encoder = SdxlTextEncoder(
            first, second, begin=one.bos_token_id, end=one.eos_token_id,
            pads=(one.pad_token_id, other.pad_token_id), silent=facts.get("silent", True),
        )  # fmt: skip
        return encoder, WordsPrompts(one, most=first.config.max_position_embeddings - 2)
