"""How fast does a GPU train, in how much memory, and is that what was estimated?

    make bench-gpu

Runs of `mgie train` of a few steps on toy pairs, each in a process of its own: the recipe `tiny`, and one of
LLaVA-7B's and Stable Diffusion's sizes whose weights are random and made on the GPU, so that nothing has to
be fetched. Under ten minutes; what no time is left for is left out. `--small` goes the same way at the
recipe `tiny`'s size wherever it is, and writes no report.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPORT = Path(__file__).with_suffix(".md")
LIMIT, EACH = 560, 150
"""Seconds for all, and for one."""
STEPS = 6
LARGE = ("--train.batch_size=8", "--train.micro_batch_size=8", "--train.gradient_checkpointing=true",
         "--train.precision=bf16", "--optim.lrs={}")  # fmt: skip
SMALL = ("--train.batch_size=4", "--train.micro_batch_size=4", "--optim.lrs={}")
PUBLISHED = "--train.groups=[embeddings,lm_head,edit_head,denoiser]"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One run."""

    name: str
    size: str
    """tiny, or 7b: whose sizes the random weights have; "" for tiny's own weights."""
    words: tuple[str, ...] = ()
    engine: str = ""
    """Taken even though one process has nobody to share out with."""


WAYS = (
    Way(name="tiny, bf16", size="", words=("--train.precision=bf16", "--train.batch_size=32",
                                           "--train.micro_batch_size=32")),
    Way(name="7B, adapters", size="7b", words=("--train.groups=[lora]",)),
    Way(name="7B, adapters, flash_attention_2", size="7b",
        words=("--train.groups=[lora]", "--model.encoder.attention=flash_attention_2")),
    Way(name="7B, new_tokens_only", size="7b", words=("--train.groups=[new_tokens_only]",)),
    Way(name="7B, as published", size="7b", words=(PUBLISHED,)),
    Way(name="7B, as published, fsdp2", size="7b", words=(PUBLISHED,), engine="fsdp2"),
    Way(name="7B, as published, zero3", size="7b", words=(PUBLISHED,), engine="zero3"),
    Way(name="7B, as published, zero3, optimizer on the CPU", size="7b",
        words=(PUBLISHED, "--train.strategy=zero3", "--train.offload.optimizer=cpu")),
)  # fmt: skip
IN_SMALL = (
    Way(name="tiny", size="", words=SMALL),
    Way(name="random, adapters", size="tiny", words=(*SMALL, "--train.groups=[lora]")),
    Way(name="random, as published, fsdp2", size="tiny", words=(*SMALL, PUBLISHED), engine="fsdp2"),
)


def small_files(folder: Path) -> None:
    """What tells sizes of LLaVA-7B and InstructPix2Pix, without weights."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from full_size import TOWER, write_llava_files
    from transformers import CLIPVisionConfig

    llava, tower, diffusion = (folder / name for name in ("llava", "tower", "diffusion"))
    llava.mkdir()
    CLIPVisionConfig(**TOWER).save_pretrained(tower)
    write_llava_files(llava, tower)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=8, out_channels=4, cross_attention_dim=768, attention_head_dim=8
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        )  # fmt: skip
    unet.save_config(diffusion / "unet"), vae.save_config(diffusion / "vae")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    ).save_pretrained(diffusion / "scheduler")


def random_parts(run: Any, device: Any) -> Any:
    """The editor of a run with random weights, made on the device in the types in which a run keeps them."""
    import torch

    from llava_patch.processor import Processor
    from mgie.build import Parts, checkpoint_as_asked, frozen_short
    from mgie.fits import sizes
    from mgie.prompts import LlavaPrompts
    from mgie.tokens import visual_tokens
    from mgie.weights.llava_part import attention_here
    from mgie.weights.parts import denoiser_part, resolve

    short = torch.bfloat16 if frozen_short(run, device) else torch.float32
    editor: Any = sizes(run).to(short).to_empty(device=device).train()
    for parameter in editor.parameters():
        parameter.data.normal_(0, 0.02)
    for buffer in editor.buffers():
        buffer.zero_()
    for name, members in editor.groups().items():
        for parameter in members if name in run.train.groups else ():
            parameter.data = parameter.data.float()
    checkpoint_as_asked(run, editor)
    settings = run.model.encoder
    editor.encoder.llava.language_model.set_attn_implementation(attention_here(settings.attention, short))
    processor = Processor.from_pretrained(resolve(settings.llava), template=settings.template)
    count = settings.edit_head.visual_tokens
    processor.tokenizer.add_tokens(visual_tokens(count))
    prompts = LlavaPrompts(processor, question=settings.question, count=count)
    process = denoiser_part(run.model.denoiser.kind).sizes(run.model.denoiser)[2]
    return Parts(editor=editor, prompts=prompts, process=process)


def worker(way: Way, folder: Path) -> None:
    """Train, and print what was measured."""
    import torch

    import mgie.train  # noqa: F401  (a story has its module's name)
    from mgie.config import load_run
    from mgie.fits import needs
    from mgie.training.deepspeed import ZeroEngine
    from mgie.training.engine import AbstractEngine
    from mgie.training.fsdp import ShardedEngine

    story: Any = sys.modules["mgie.train"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if way.size == "7b":
        recipe = ["mgie_7b", *LARGE, f"--model.encoder.llava={folder / 'llava'}",
                  f"--model.denoiser.diffusion={folder / 'diffusion'}", "--train.epochs=null"]  # fmt: skip
    else:
        recipe = ["tiny", "--train.epochs=null", "--train.align_weight=0"]
    fixed = [f"--data.path={folder / 'data'}", f"--out={folder / 'runs'}", "--preview.every=0",
             "--train.ema=null", "--name=bench"]  # fmt: skip
    run = load_run(recipe[0], [*recipe[1:], *fixed, *way.words])
    batch = run.train.batch_size
    length = {"train.samples": STEPS * batch, "log.every": STEPS * batch // 2, "save.every": STEPS * batch}
    words = [*recipe[1:], *fixed, *way.words, *(f"--{key}={value}" for key, value in length.items())]
    run = load_run(recipe[0], words)

    def leave_unsaved(self: Any, *given: Any, **named: Any) -> None:
        pass

    def engine_alone(run: Any, world: Any) -> Any:
        world.meet_alone()
        how = {"clip": run.optim.clip, "bf16": run.train.precision == "bf16"}
        if way.engine == "fsdp2":
            return ShardedEngine(world, **how)
        return ZeroEngine(world, **how, stage=3, batch_size=batch, micro_batch_size=run.train.micro_batch(1))

    for kind in (AbstractEngine, ShardedEngine):
        kind.save = leave_unsaved  # type: ignore[method-assign]
    if way.size:
        story.build_editor = lambda run, **_: random_parts(run, device)
    if way.engine:
        story.build_engine = engine_alone
    micro = run.train.micro_batch(1)
    estimate = needs(run, (micro,)).total("ddp", 1, micro) if device.type == "cuda" else None
    story.train(run)
    line = json.loads((run.folder / "log.jsonl").read_text().splitlines()[-1])
    names = ("samples_per_second", "memory_gib", "tflops", "mfu", "data_wait")
    told = {name: line.get(name) for name in names}
    print("MEASURED", json.dumps(told | {"estimate_gib": estimate and round(estimate / (1 << 30), 2)}))


def machine() -> str:
    """What this was measured on, in a line."""
    import torch
    import transformers

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"{card}, torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> int:
    """Every way in turn, then the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--worker")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.worker:
        worker(next(way for way in (*WAYS, *IN_SMALL) if way.name == asked.worker), asked.folder)
        return 0
    import torch

    if not asked.small and not torch.cuda.is_available():
        print("there is no GPU here: expected one; --small goes the same way at tiny size.", file=sys.stderr)
        return 2
    rows, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if not asked.small:
            small_files(folder)
        words = ["prepare", "toy", "--out", str(folder / "data"), "--count", "64", "--test", "4"]
        subprocess.run([sys.executable, "-m", "mgie", *words], check=True, capture_output=True, cwd=ROOT)
        for way in IN_SMALL if asked.small else WAYS:
            left = LIMIT - (time.monotonic() - began)
            most = 3600.0 if asked.small else min(EACH, left)
            rows.append((way.name, measured(way, folder, most) if most > 20 else "no time left"))
            print(*rows[-1], flush=True)
            shutil.rmtree(folder / "runs", ignore_errors=True)
    if asked.small:
        return int(any(isinstance(told, str) for _, told in rows))
    REPORT.write_text(report(rows, round(time.monotonic() - began)))
    return 0


def measured(way: Way, folder: Path, seconds: float) -> dict[str, Any] | str:
    """What its process measured; or why it did not, in a few words."""
    words = [sys.executable, __file__, "--worker", way.name, "--folder", str(folder)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, cwd=ROOT,
                              env={**os.environ, "PYTHONPATH": paths})  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done in {seconds:.0f} s"
    told = [line for line in done.stdout.splitlines() if line.startswith("MEASURED")]
    said = [line for line in done.stderr.splitlines() if "Error: " in line or line.startswith("mgie: ")]
    last = (said or ["no word"])[-1]
    return json.loads(told[-1].removeprefix("MEASURED")) if told else last[:160]


def report(rows: list[tuple[str, dict[str, Any] | str]], seconds: int) -> str:
    """The page."""
    names = ("samples_per_second", "memory_gib", "estimate_gib", "tflops", "mfu", "data_wait")
    lines = [
        "# How fast a GPU trains, and in how much memory", "",
        f"`make bench-gpu`, {time.strftime('%Y-%m-%d')}, {seconds} s; {machine()}.", "",
        f"Steps {STEPS // 2 + 1} to {STEPS} of runs on toy pairs; the 7B has random weights. Memory is the",
        "peak of tensors; the estimate is that of `--dry_run --gpu` for one process that shares nothing out,",
        "and for texts of the recipe's greatest length, where toy pairs are shorter.", "",
        "| run | samples/s | memory (GiB) | estimate (GiB) | 10^12 operations/s | MFU | waiting for data |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, told in rows:
        cells = [str(told[key]) for key in names] if isinstance(told, dict) else [told, *[""] * 5]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
