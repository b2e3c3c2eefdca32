"""The parts of the small base: new ones, those that a base has, or as a stage has left them."""

import io
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import sentencepiece
import torch
from diffusers import AutoencoderDC, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, LlamaConfig

from llava_patch.config import TOWER_FOLDER, LlavaConfig
from llava_patch.model import Llava
from llava_patch.processor import ClipImageConfig, Processor
from llava_patch.shards import read_tensors
from llava_patch.tokenizer import LlavaTokenizer
from llava_patch.tokens import IMAGE_TOKENS, ImageTokens
from llava_patch.weights import load_llava
from mgie.config import load_run
from mgie.diffusion.process import VarianceProcess
from mgie.errors import WeightsError
from mgie.models.codec import Codec
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.models.encoders.llava import LlavaEncoder
from mgie.tokens import visual_tokens
from mgie.toy.copying import begin_with_copying
from mgie.toy.pairs import corpus
from mgie.toy.reading import TOLD
from mgie.weights import checkpoint

FOLDER = "_ckpt/runs/tiny_base"
ALIGNED = "aligned.safetensors"
TABLES = ("llava.language_model.model.embed_tokens.weight", "llava.language_model.lm_head.weight")
"""What has a row for each token."""
Stage = Literal["codec", "see", "look", "speak", "read", "draw", "place", "painter", "align", "together"]


def new_process(settings: dict[str, Any]) -> VarianceProcess:
    """The way to noise and back."""
    return VarianceProcess(DDPMScheduler(**settings["scheduler"]))


def new_codec(settings: dict[str, Any]) -> Codec:
    """An untrained autoencoder, or the one to begin with."""
    if settings["begin"]:
        return Codec(
            AutoencoderDC.from_pretrained(settings["begin"], subfolder="sd/vae", torch_dtype=torch.float32)
        )
    return Codec(AutoencoderDC(**settings["vae"]))


def new_unet(settings: dict[str, Any]) -> UNet2DConditionModel:
    """A UNet that copies its source, or the one to begin with."""
    if settings["begin"]:
        return UNet2DConditionModel.from_pretrained(
            settings["begin"], subfolder="sd/unet", torch_dtype=torch.float32
        )
    unet = UNet2DConditionModel(**settings["unet"])
    begin_with_copying(unet)
    return unet


def new_llava(settings: dict[str, Any]) -> tuple[Llava, Processor]:
    """An untrained language side, or the one to begin with, and the tokenizer of the toy world's words inside
    its processor."""
    if settings["begin"]:
        llava, tokenizer = load_llava(Path(settings["begin"]) / "llava", progress=False)
        return llava, _processor(tokenizer, llava.config)
    tokenizer = new_tokenizer(settings["vocabulary"], settings["sentences"])
    tokenizer.add_tokens(IMAGE_TOKENS)
    language = LlamaConfig(
        **settings["language"], vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(
        language=language, vision=CLIPVisionConfig(**settings["vision"]), vision_tower=TOWER_FOLDER,
        vision_layer=-2, use_im_start_end=True,
    )  # fmt: skip
    llava = Llava.from_config(config, ImageTokens.of(tokenizer, use_im_start_end=True))
    return llava, _processor(tokenizer, config)


def new_encoder(settings: dict[str, Any]) -> tuple[LlavaEncoder, Processor]:
    """The language side with visual tokens and an edit head: new ones, or those to begin with."""
    (llava, processor), shape = new_llava(settings), EditHeadConfig(**settings["edit_head"])
    restore(llava, "see", settings, prefix="llava.", every=False)
    restore(llava, "speak", settings, every=False)
    words = len(processor.tokenizer)
    llava.grow(processor.tokenizer.add_tokens(visual_tokens(shape.visual_tokens)))
    head = EditHead(shape, d_in=llava.config.language.hidden_size, e_out=settings["text"]["hidden_size"])
    visual = tuple(range(words, words + shape.visual_tokens))
    encoder = LlavaEncoder(llava, head, visual_ids=visual)
    if file := aligned_before(settings):
        ours, tensors = encoder.state_dict(), read_tensors(file)
        with torch.no_grad():
            for name in rows_and_head(encoder):
                learnt = tensors[f"encoder.{name}"]
                if name in TABLES:  # of words that are known, the language model's own
                    ours[name][words:] = learnt[words:]
                else:
                    ours[name].copy_(learnt)
    return encoder, processor


def aligned_before(settings: dict[str, Any]) -> Path | None:
    """The file of an edit head and tables to begin with, where there is one."""
    file = Path(settings["begin"] or "") / ALIGNED
    return file if settings["begin"] and file.exists() else None


def rows_and_head(encoder: LlavaEncoder) -> list[str]:
    """Names of what no LLaVA has: the edit head, and the tables that have rows of visual tokens."""
    return [name for name in encoder.state_dict() if name in TABLES or name.startswith("edit_head.")]


def _processor(tokenizer: LlavaTokenizer, config: LlavaConfig) -> Processor:
    pixels, template = ClipImageConfig.clip(config.image_size), load_run("tiny").model.encoder.template
    return Processor(tokenizer, pixels, config.patches, template, config.use_im_start_end)


def new_reader(
    settings: dict[str, Any], tokenizer: LlavaTokenizer, *, silent: tuple[int, ...] = ()
) -> ClipTextEncoder:
    """An untrained text encoder that reads the language model's tokens but the `silent` ones, or the one to
    begin with. Its condition is as long as the edit head's."""
    queries = settings["edit_head"]["queries"]
    assert queries >= TOLD
    if settings["begin"]:
        folder = Path(settings["begin"]) / "sd" / "text_encoder"
        model = CLIPTextModel.from_pretrained(folder, dtype=torch.float32)
    else:
        model = CLIPTextModel(
            CLIPTextConfig(
                **settings["text"], vocab_size=len(tokenizer),
                bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
            )
        )  # fmt: skip
    return ClipTextEncoder(model, silent_ids=(*silent, tokenizer.eos_id), pooled=queries)


def new_tokenizer(pieces: int, count: int) -> LlavaTokenizer:
    """A tokenizer of `pieces` pieces, learnt from about `count` sentences of the toy world and the prompt."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(_sentencepiece(pieces, count))
        return LlavaTokenizer.from_pretrained(folder)


@lru_cache(maxsize=2)
def _sentencepiece(pieces: int, count: int) -> bytes:
    """A model built as LLaMA's is."""
    prompt = f"USER: {load_run('tiny').model.encoder.question} ASSISTANT:"
    sentences = sorted(set(corpus(count))) * 2 + [prompt] * 2000
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=pieces + 256, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        num_threads=1, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
    )  # fmt: skip
    return model.getvalue()


def restore(
    module: nn.Module, stage: Stage, settings: dict[str, Any], *, prefix: str = "", every: bool = True
) -> None:
    """Load what a stage has learnt (its average, where it kept one) under `prefix` into `module`: `every` one
    of its parameters, or those that the stage trained; one that has not begun leaves what the module began
    with."""
    found = checkpoint.latest(Path(FOLDER) / stage)
    if found is None and settings["begin"]:
        return
    if found is None:
        raise WeightsError(
            f"{FOLDER}/{stage} has no checkpoint: run `python -m mgie.toy.pretrain train --stage {stage}` "
            "first."
        )
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.load_tensors(found, ema=True).items()
        if name.startswith(prefix)
    }
    checkpoint.load_into(tensors, dict(module.named_parameters()), where=found, every=every)
