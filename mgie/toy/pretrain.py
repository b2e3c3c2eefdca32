"""How the small base of the recipe `tiny` is made out of the toy world.

    python -m mgie.toy.pretrain train                # every stage that is not done, one after the other
    python -m mgie.toy.pretrain train --stage codec  # one alone: beside others that it does not need
    python -m mgie.toy.pretrain export --out mgie/recipes/tiny_base
    python -m mgie.toy.pretrain train --begin mgie/recipes/tiny_base   # each part goes on from what is there

Four parts, each as its big sibling was made: an autoencoder; a language model that learns to look by
describing pictures, then to say what an edit will do to them (as LLaVA was tuned); a text encoder that learns
to read what such words tell; a UNet that paints an edit from what was read (as InstructPix2Pix was trained):
first in crops around what changes, then edits whose words say where, then all. Then visual tokens and an
edit head come in, and learn to hand over what is said as the text encoder does (as GILL's did). In the end
language model, head and UNet learn together what the recipe `tiny` goes on with. Pairs are drawn when needed,
none twice. Each stage is a run in _ckpt/runs/tiny_base that stops and goes on like any other.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import DDPMScheduler
from jsonargparse import CLI
from safetensors.torch import save_file
from torch import nn

from llava_patch.ranges import in_range
from llava_patch.weights import save_llava
from mgie.config import RunConfig, load_run
from mgie.data.batches import Batches, Builder
from mgie.data.examples import ExampleBuilder
from mgie.errors import UserError, WeightsError
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.editor import Editor
from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.models.encoders.llava import LlavaEncoder
from mgie.prompts import LlavaPrompts
from mgie.ranges import Threads
from mgie.start import find_start
from mgie.toy.heeding import PaintTask
from mgie.toy.lessons import BaseExamples, Crops
from mgie.toy.pairs import ToyPairs
from mgie.toy.parts import (
    ALIGNED,
    FOLDER,
    TABLES,
    Stage,
    aligned_before,
    new_codec,
    new_encoder,
    new_llava,
    new_process,
    new_reader,
    new_unet,
    restore,
    rows_and_head,
)
from mgie.toy.pointing import PointedLessons, PointTask
from mgie.toy.reading import Readings, ReadTask
from mgie.toy.seeing import SeeTask, Sights
from mgie.toy.tasks import AlignTask, CodecTask
from mgie.train import build_engine, fit
from mgie.training.cpu import keep_memory
from mgie.training.draws import draws_for
from mgie.training.optim import Groups
from mgie.training.task import AbstractTask, EditTask
from mgie.training.world import World
from mgie.weights.checkpoint import TrainState

SETTINGS = Path(__file__).with_suffix(".yaml")
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
        keep_memory()
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


def see_task(settings: dict[str, Any], run: RunConfig) -> Task:
    """Pictures in, what is where out."""
    llava, processor = new_llava(settings)
    task = SeeTask(llava)
    seeing = task.editor.seeing()
    return task, {"seer": seeing, "llava": _all_but(seeing, task.editor)}, Sights(run, processor)


def language_task(settings: dict[str, Any], run: RunConfig, *, describe: bool) -> Task:
    """Look at the picture and read the instruction, say what will happen; or, at first, also describe it."""
    llava, processor = new_llava(settings)
    restore(llava, "see", settings, prefix="llava.", every=False)
    if not describe:
        restore(llava, "look", settings, every=False)
    lessons = PointedLessons(run, processor, describe=describe)
    seeing = list(llava.vision_tower.parameters())  # and no more after its stage
    return PointTask(llava), {"llava": _all_but(seeing, llava), "seer": seeing}, lessons


def _all_but(some: Iterable[nn.Parameter], module: nn.Module) -> list[nn.Parameter]:
    """The other parameters of a module."""
    left = {id(each) for each in some}
    return [each for each in module.parameters() if id(each) not in left]


def read_task(settings: dict[str, Any], run: RunConfig) -> Task:
    """Words in, what will be where out."""
    processor = new_llava(settings)[1]
    task = ReadTask(new_reader(settings, processor.tokenizer))
    return task, {"reader": list(task.editor.parameters())}, Readings(run, processor)


def painter_task(settings: dict[str, Any], run: RunConfig, *, before: Stage | None) -> Task:
    """Paint what was read: at first in crops around it, then go on from the stage `before`."""
    processor = new_llava(settings)[1]
    codec, unet, encoder = new_codec(settings), new_unet(settings), new_reader(settings, processor.tokenizer)
    restore(codec, "codec", settings)
    restore(encoder, "read", settings, prefix="encoder.")
    if before:
        restore(unet, before, settings, prefix="denoiser.unet.")
    unet.to(memory_format=torch.channels_last)  # a fifth of its time
    editor = Editor(encoder=encoder, denoiser=UNetDenoiser(unet), codec=codec)
    process, drop = new_process(settings), run.train.drop
    if before is None:  # in a crop, no place is where it was
        return EditTask(editor, process, drop=drop), editor.groups(), Crops(run, processor)
    task = PaintTask(editor, process, drop=drop, heed_weight=settings["heed_weight"])
    return task, editor.groups(), BaseExamples(run, processor)


def align_task(settings: dict[str, Any], run: RunConfig) -> Task:
    """Say what will happen, and hand it over to the painter as the text encoder does."""
    encoder, teacher, builder = _speaking(settings, run)
    return AlignTask(encoder, teacher), encoder.groups(), builder


def together_task(settings: dict[str, Any], run: RunConfig) -> Task:
    """What the recipe `tiny` learns: say what will happen, hand it over, and paint what was handed over."""
    (encoder, teacher, builder), tiny = _speaking(settings, run), load_run("tiny").train
    codec, unet = new_codec(settings), new_unet(settings)
    restore(encoder, "align", settings | {"begin": aligned_before(settings)}, every=False)
    restore(codec, "codec", settings)
    restore(unet, "painter", settings, prefix="denoiser.unet.")
    unet.to(memory_format=torch.channels_last)
    editor = Editor(encoder=encoder, denoiser=UNetDenoiser(unet), codec=codec)
    task = EditTask(
        editor, new_process(settings), drop=run.train.drop, teacher=teacher,
        edit_weight=tiny.edit_weight, align_weight=tiny.align_weight,
    )  # fmt: skip
    return task, editor.groups(), builder


def _speaking(settings: dict[str, Any], run: RunConfig) -> tuple[LlavaEncoder, ClipTextEncoder, Builder]:
    """Language side and edit head, the text encoder that teaches them, what makes a pair into an example."""
    encoder, processor = new_encoder(settings)
    teacher = new_reader(settings, new_llava(settings)[1].tokenizer, silent=encoder.visual_ids)
    restore(teacher, "read", settings, prefix="encoder.")
    prompts = LlavaPrompts(processor, question=run.model.encoder.question, count=len(encoder.visual_ids))
    return encoder, teacher, ExampleBuilder(prompts, size=run.data.size, max_length=run.data.max_length)


def export(*, out: str, begin: str | None = None) -> None:
    """Write the parts to `out` in float16: `llava/` in LLaVA's layout, `sd/` in diffusers', and what a run
    begins with besides, `aligned.safetensors`. What no stage has trained is as in `begin`."""
    settings = read_settings(begin)
    (llava, processor), codec, unet = new_llava(settings), new_codec(settings), new_unet(settings)
    reader = new_reader(settings, processor.tokenizer)
    encoder, _ = new_encoder(settings)
    restore(encoder, "align", settings | {"begin": aligned_before(settings)}, every=False)
    restore(encoder, "together", settings, prefix="encoder.", every=False)
    restore(codec, "codec", settings)
    restore(unet, "painter", settings, prefix="denoiser.unet.")
    restore(unet, "together", settings, prefix="denoiser.unet.")
    restore(reader, "read", settings, prefix="encoder.")
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
    reader.text_model.half().save_pretrained(Path(out) / "sd" / "text_encoder")
    DDPMScheduler(**settings["scheduler"]).save_pretrained(Path(out) / "sd" / "scheduler")
    save_file(aligned, Path(out) / ALIGNED, metadata={"format": "pt"})


def read_settings(begin: str | None = None) -> dict[str, Any]:
    """What pretrain.yaml says, and where parts begin. Raises WeightsError where no base is."""
    if begin is not None and not (Path(begin) / "sd" / "unet").is_dir():
        raise WeightsError(f"begin={begin}: there is no base: expected a folder that `export` wrote.")
    return yaml.safe_load(SETTINGS.read_text()) | {"begin": begin}


TASKS: dict[Stage, Callable[[dict[str, Any], RunConfig], Task]] = {
    "codec": codec_task,
    "see": see_task,
    "look": partial(language_task, describe=True),
    "speak": partial(language_task, describe=False),
    "read": read_task,
    "draw": partial(painter_task, before=None),
    "place": partial(painter_task, before="draw"),
    "painter": partial(painter_task, before="place"),
    "align": align_task,
    "together": together_task,
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
