"""How the small base of the recipe `tiny` is made out of the toy world.

    python -m mgie.toy.pretrain train                # every stage that is not done, one after the other
    python -m mgie.toy.pretrain train --stage codec  # one alone: beside others that it does not need
    python -m mgie.toy.pretrain export --out mgie/recipes/tiny_base
    python -m mgie.toy.pretrain train --begin mgie/recipes/tiny_base   # each part goes on from what is there

Three parts, each as its big sibling was made: an autoencoder; a language model that learns to look by
describing pictures, then to say what an edit will do to them (as LLaVA was tuned); a UNet that paints an edit
from words alone (as InstructPix2Pix was trained): first in crops around what changes, then edits whose words
say where, then all. In the end visual tokens and an edit head come in, and learn to hand over what is said
as the painter's text encoder does (as GILL's did); no stage paints from them. Pairs are drawn when needed,
none twice. Each stage is a run in _ckpt/runs/tiny_base that stops and goes on like any other.
"""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import sentencepiece
import torch
import yaml
from diffusers import AutoencoderDC, DDPMScheduler, UNet2DConditionModel
from jsonargparse import CLI
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, LlamaConfig

from llava_patch.config import TOWER_FOLDER, LlavaConfig
from llava_patch.model import Llava
from llava_patch.processor import ClipImageConfig, Processor
from llava_patch.ranges import in_range
from llava_patch.shards import read_tensors
from llava_patch.tokenizer import LlavaTokenizer
from llava_patch.tokens import IMAGE_TOKENS, ImageTokens
from llava_patch.weights import load_llava, save_llava
from mgie.config import RunConfig, load_run
from mgie.data.batches import Batches, Builder
from mgie.data.examples import ExampleBuilder
from mgie.diffusion.process import VarianceProcess
from mgie.errors import UserError, WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.editor import Editor
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.models.encoders.llava import LlavaEncoder
from mgie.prompts import LlavaPrompts
from mgie.ranges import Threads
from mgie.start import find_start
from mgie.tokens import visual_tokens
from mgie.toy.copying import begin_with_copying
from mgie.toy.lessons import BaseExamples, Crops, Lessons
from mgie.toy.pairs import ToyPairs, corpus
from mgie.toy.tasks import AlignTask, CodecTask, LanguageTask
from mgie.train import build_engine, fit
from mgie.training.draws import draws_for
from mgie.training.optim import Groups
from mgie.training.task import AbstractTask, EditTask
from mgie.training.world import World
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState

SETTINGS = Path(__file__).with_suffix(".yaml")
FOLDER = "_ckpt/runs/tiny_base"
ALIGNED = "aligned.safetensors"
TABLES = ("llava.language_model.model.embed_tokens.weight", "llava.language_model.lm_head.weight")
"""What has a row for each token."""
Stage = Literal["codec", "look", "speak", "draw", "place", "painter", "align"]
WORLD = "the toy world of 64 pixels, 2"
"""Identity of what is learnt from: raised when the same numbers begin to mean other pairs."""
Task = tuple[AbstractTask, Groups, Builder]
"""What a stage trains: the task, its parameter groups, and what makes a pair into an example."""


@in_range
def train(*, stage: Stage | None = None, begin: str | None = None, threads: Threads = 1) -> dict[str, Any]:
    """Run, or go on with, every stage that is not done, or one. What it needs of earlier ones lies in
    _ckpt/runs/tiny_base, or else in `begin`, which `export` wrote: new stages begin there, too."""
    stages: list[Stage] = [stage] if stage else list(TASKS)
    return {name: train_stage(name, begin=begin, threads=threads) for name in stages}


def train_stage(stage: Stage, *, begin: str | None = None, threads: int = 1) -> dict[str, Any]:
    """Run, or go on with, one stage."""
    settings = read_settings(begin)
    run = stage_run(stage, settings, threads=threads)
    with (
        World(run.folder, threads=run.train.threads) as world,
        world.holding(run.folder),
    ):
        run, found, _ = find_start(run, world, data=WORLD)
        torch.manual_seed(run.seed)
        task, groups, builder = TASKS[stage](settings, run)
        pairs = ToyPairs(
            run.train.samples or 0,
            seed=run.seed,
            size=settings["size"],
            kinds=settings["stages"][stage].get("kinds"),
        )
        batches = Batches(
            pairs,
            builder,
            seed=run.seed,
            batch_size=run.train.batch_size,
            micro_batch_size=run.train.micro_batch(world.size),
            rank=world.rank,
            world=world.size,
            workers=run.data.workers,
        )
        draws = partial(
            draws_for,
            run.seed,
            latent_shape=new_codec(settings).latent_shape(run.data.size, run.data.size),
            process=new_process(settings),
            shift=run.train.timestep_shift,
        )
        engine = build_engine(run, world)
        return fit(
            run, engine, task, groups, batches, lambda batch: draws(batch.positions), found=found,
            begin=lambda: (TrainState(data=WORLD), {}),
        )  # fmt: skip


def stage_run(stage: Stage, settings: dict[str, Any], *, threads: int) -> RunConfig:
    """The run of a stage: the recipe `tiny` with the stage's own pairs, length and rates."""
    tiny, own = load_run("tiny"), settings["stages"][stage]
    base = {"ema": None, "samples": None, "epochs": None, "timestep_shift": 1.0, "drop": tiny.train.drop}
    every = max(own["train"]["samples"] // 10, 1)
    own["train"]["groups"] = tuple(own["train"]["groups"])
    return replace(
        tiny,
        name=stage,
        out=FOLDER,
        seed=SEEDS[stage],
        data=replace(
            tiny.data, path=WORLD, size=own.get("size", settings["size"]), max_length=settings["max_length"]
        ),
        train=replace(
            tiny.train, **{**base, **own["train"]}, edit_weight=1.0, align_weight=0.0, threads=threads
        ),
        optim=replace(tiny.optim, **{**own["optim"], "betas": tuple(own["optim"]["betas"])}, lrs={}),
        save=replace(tiny.save, every=every),
        log=replace(tiny.log, every=max(every // 10, own["train"]["batch_size"])),
        preview=replace(tiny.preview, every=0),
    )


def codec_task(settings: dict[str, Any], run: RunConfig) -> Task:
    """Pictures in, the same pictures out."""
    codec, own = new_codec(settings), settings["stages"]["codec"]
    return (
        CodecTask(codec, noise=own["noise"], pull=own["pull"]),
        {"codec": list(codec.parameters())},
        Crops(run, None),
    )


def language_task(settings: dict[str, Any], run: RunConfig, *, describe: bool) -> Task:
    """Look at the picture and read the instruction, say what will happen; or, at first, also describe it."""
    llava, processor = new_llava(settings)
    if not describe:
        restore(llava, "look", settings)
    lessons = Lessons(run, processor, describe=describe)
    return LanguageTask(llava), {"llava": list(llava.parameters())}, lessons


def painter_task(settings: dict[str, Any], run: RunConfig, *, before: Stage | None) -> Task:
    """Read what will happen, paint it: at first in crops around it, then go on from the stage `before`."""
    processor = new_llava(settings)[1]
    codec, unet, text = new_codec(settings), new_unet(settings), new_text_model(settings, processor.tokenizer)
    restore(codec, "codec", settings)
    if before:
        restore(unet, before, settings, prefix="denoiser.unet.")
        restore(text, before, settings, prefix="encoder.text_model.")
    encoder = ClipTextEncoder(text, silent_ids=(processor.tokenizer.eos_id,))
    editor = Editor(encoder=encoder, denoiser=UNetDenoiser(unet), codec=codec)
    task = EditTask(editor, new_process(settings), drop=run.train.drop)
    return task, editor.groups(), (BaseExamples if before else Crops)(run, processor)


def align_task(settings: dict[str, Any], run: RunConfig) -> Task:
    """Say what will happen, and hand it over to the painter as the text encoder does."""
    encoder, processor = new_encoder(settings)
    text = new_text_model(settings, new_llava(settings)[1].tokenizer)
    restore(text, "painter", settings, prefix="encoder.text_model.")
    teacher = ClipTextEncoder(text, silent_ids=(*encoder.visual_ids, processor.tokenizer.eos_id))
    prompts = LlavaPrompts(processor, question=run.model.encoder.question, count=len(encoder.visual_ids))
    builder = ExampleBuilder(prompts, size=run.data.size, max_length=run.data.max_length)
    return AlignTask(encoder, teacher), encoder.groups(), builder


def export(*, out: str, begin: str | None = None) -> None:
    """Write the parts to `out` in float16: `llava/` in LLaVA's layout, `sd/` in diffusers', and what a run
    begins with besides, `aligned.safetensors`. What no stage has trained is as in `begin`."""
    settings = read_settings(begin)
    (llava, processor), codec, unet = new_llava(settings), new_codec(settings), new_unet(settings)
    text = new_text_model(settings, processor.tokenizer)
    encoder, _ = new_encoder(settings)
    restore(encoder, "align", settings | {"begin": aligned_before(settings)})
    restore(codec, "codec", settings)
    restore(unet, "painter", settings, prefix="denoiser.unet.")
    restore(text, "painter", settings, prefix="encoder.text_model.")
    words, tensors = len(processor.tokenizer), encoder.half().state_dict()
    aligned = {f"encoder.{name}": each for name, each in tensors.items() if name in rows_and_head(encoder)}
    known = {name.removeprefix("llava."): each for name, each in tensors.items() if name.startswith("llava.")}
    tables = {name.removeprefix("llava.") for name in TABLES}
    llava.half().load_state_dict(
        {name: each[:words] if name in tables else each for name, each in known.items()}
    )
    save_llava(llava, processor.tokenizer, Path(out) / "llava")
    for name, part in (("vae", codec.vae), ("unet", unet)):
        part.register_to_config(_name_or_path="")  # where a part began is nobody's business
        part.half().save_pretrained(Path(out) / "sd" / name)
    text.half().save_pretrained(Path(out) / "sd" / "text_encoder")
    DDPMScheduler(**settings["scheduler"]).save_pretrained(Path(out) / "sd" / "scheduler")
    save_file(aligned, Path(out) / ALIGNED, metadata={"format": "pt"})


def read_settings(begin: str | None = None) -> dict[str, Any]:
    """What pretrain.yaml says, and where parts begin. Raises WeightsError where no base is."""
    if begin is not None and not (Path(begin) / "sd" / "unet").is_dir():
        raise WeightsError(f"begin={begin}: there is no base: expected a folder that `export` wrote.")
    return yaml.safe_load(SETTINGS.read_text()) | {"begin": begin}


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
    restore(llava, "speak", settings)
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


def new_text_model(settings: dict[str, Any], tokenizer: LlavaTokenizer) -> CLIPTextModel:
    """An untrained text encoder that reads the language model's tokens, or the one to begin with."""
    if settings["begin"]:
        return CLIPTextModel.from_pretrained(
            Path(settings["begin"]) / "sd" / "text_encoder", dtype=torch.float32
        )
    return CLIPTextModel(
        CLIPTextConfig(
            **settings["text"], vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
        )
    )  # fmt: skip


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


def restore(module: nn.Module, stage: Stage, settings: dict[str, Any], *, prefix: str = "") -> None:
    """Load what a stage has learnt (its average, where it kept one) under `prefix` into `module`; one that
    has not begun leaves what the module began with."""
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
    checkpoint.load_into(tensors, dict(module.named_parameters()), where=found)


TASKS: dict[Stage, Callable[[dict[str, Any], RunConfig], Task]] = {
    "codec": codec_task,
    "look": partial(language_task, describe=True),
    "speak": partial(language_task, describe=False),
    "draw": partial(painter_task, before=None),
    "place": partial(painter_task, before="draw"),
    "painter": partial(painter_task, before="place"),
    "align": align_task,
}


SEEDS: dict[Stage, int] = {stage: 100 + number for number, stage in enumerate(TASKS)}
"""Each stage draws pairs of its own."""


if __name__ == "__main__":
    try:
        CLI({"train": train, "export": export}, as_positional=False)
    except KeyboardInterrupt:  # what was done is saved, and was told
        sys.exit(130)
    except UserError as error:
        sys.exit(str(error))
