"""Do weights of the published sizes go through every door, and in how much memory?

    python benchmarks/full_size.py --folder /somewhere/with/50GB

LLaVA-7B, CLIP ViT-L/14, Stable Diffusion 1.5 and Apple's two files of random numbers, in the published
layouts and half precision: LLaMA and its delta become LLaVA, LLaVA and Apple's files an editor that edits a
picture, the original's training checkpoint Apple's files and a release. Each door is a process of its own,
whose memory is looked at twenty times a second.
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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from llava_patch.shards import each_shard
from llava_patch.tokens import IMAGE_TOKENS
from llava_patch.weights import to_published
from mgie.config import load_run
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.pipeline import MGIEPipeline

GIB = 2**30
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu", "vocab_size": 32000,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    "torch_dtype": "float16",
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
"""Where Apple's mllm.pt counts, not the LLaVA folder."""


class Numbers:
    """Half-precision random numbers of any shape, quickly: pieces of one long row."""

    def __init__(self, seed: int):
        self.row = torch.randn(2**26, generator=torch.Generator().manual_seed(seed)).half()
        self.at = 0

    def __call__(self, name: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
        """Values such as the layer `name` would have, times `scale`; norms around 1 (around 0 in a delta)."""
        count, parts = torch.Size(shape).numel(), []
        while count:
            part = self.row[self.at : self.at + count]
            parts.append(part)
            count, self.at = count - len(part), (self.at + len(part) + 1) % len(self.row)
        values = torch.cat(parts).view(shape) * (0.02 * scale)
        return values + 1 if "norm" in name and name.endswith("weight") and scale == 1 else values


def tokenizer_files() -> list[Path]:
    """Of 32000 pieces: the small base's tokenizer cannot be it, as its rows must be as many as published."""
    return sorted(Path(__file__).parents[1].glob("tests/golden/mgie/tokenizer/*"))


def write_shards(folder: Path, tensors: Iterator[tuple[str, Tensor]], count: int, names: int) -> None:
    """So many pickles of about as many tensors each, as LLaVA was published."""
    folder.mkdir(parents=True)
    each = -(-names // count)
    for number in range(1, count + 1):
        part = {name: tensor for _, (name, tensor) in zip(range(each), tensors)}
        torch.save(part, folder / f"pytorch_model-{number:05d}-of-{count:05d}.bin")


def language_shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of LLaMA-7B."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**{**LLAMA, "vocab_size": vocabulary}))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def make_llama(folder: Path) -> None:
    """LLaMA-7B."""
    shapes, numbers = language_shapes(32000), Numbers(1)
    write_shards(folder, ((n, numbers(n, shape)) for n, shape in shapes.items()), 2, len(shapes))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for file in tokenizer_files():
        shutil.copy(file, folder)


def make_delta(folder: Path, tower: Path) -> None:
    """What LLaVA is published as: the difference to LLaMA, three rows more, a projector."""
    shapes, numbers = language_shapes(32000 + len(IMAGE_TOKENS)), Numbers(2)
    shapes |= {"model.mm_projector.weight": (4096, 1024), "model.mm_projector.bias": (4096,)}
    write_shards(folder, ((n, numbers(n, shape, 0.05)) for n, shape in shapes.items()), 2, len(shapes))
    write_llava_files(folder, tower)


def write_llava_files(folder: Path, tower: Path) -> None:
    """All of a LLaVA-7B-v1 folder but the weights."""
    config = LLAMA | {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "vocab_size": 32003,
        "mm_vision_tower": str(tower), "mm_vision_select_layer": -2, "mm_use_im_start_end": True,
        "mm_hidden_size": 1024, "use_mm_proj": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    for file in tokenizer_files():
        shutil.copy(file, folder)
    added = {name: 32000 + number for number, name in enumerate(IMAGE_TOKENS)}
    (folder / "added_tokens.json").write_text(json.dumps(added))


def filled(model: Any, numbers: Numbers) -> Any:
    """The model in half precision, with values."""
    model = model.half().to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(numbers(name, tuple(parameter.shape)))
    return model


def make_tower(folder: Path) -> None:
    """CLIP ViT-L/14."""
    with torch.device("meta"):
        tower = CLIPVisionModel(CLIPVisionConfig(**TOWER))
    filled(tower, Numbers(3)).save_pretrained(folder)


def make_diffusion(folder: Path) -> None:
    """InstructPix2Pix: UNet of eight channels, VAE and schedule of Stable Diffusion 1.5."""
    numbers = Numbers(4)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=8, out_channels=4, cross_attention_dim=768, attention_head_dim=8
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        )  # fmt: skip
    filled(unet, numbers).save_pretrained(folder / "unet")
    filled(vae, numbers).save_pretrained(folder / "vae")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    ).save_pretrained(folder / "scheduler")


def make_apple(folder: Path) -> None:
    """Apple's mllm.pt (without `emb`, as it is published) and unet.pt."""
    folder.mkdir()
    numbers = Numbers(5)
    sizes = load_run("mgie_7b").model.encoder.edit_head
    assert isinstance(sizes, EditHeadConfig)
    with torch.device("meta"):
        head = EditHead(sizes, d_in=4096, e_out=768)
    shapes = dict.fromkeys(TABLES, (32003 + sizes.visual_tokens, 4096))
    shapes |= {f"edit_head.{name}": tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    torch.save({name: numbers(name, shape) for name, shape in shapes.items()}, folder / "mllm.pt")
    unet = UNet2DConditionModel.load_config(folder.parent / "diffusion" / "unet")
    with torch.device("meta"):
        empty = UNet2DConditionModel.from_config(unet)
    torch.save(filled(empty, numbers).state_dict(), folder / "unet.pt")


def make_checkpoint(folder: Path, llava: Path, apple: Path) -> None:
    """A training checkpoint as the original saves it: four shards of everything, frozen parts too."""
    mllm, unet = (torch.load(apple / name, mmap=True, weights_only=True) for name in ("mllm.pt", "unet.pt"))

    def everything() -> Iterator[tuple[str, Tensor]]:
        yield from mllm.items()
        yield from ((f"unet.{name}", tensor) for name, tensor in unet.items())
        for _, tensors in each_shard(llava, progress=False):
            yield from ((name, tensor) for name, tensor in tensors.items() if name not in mllm)

    count = len(mllm) + len(unet) + len(language_shapes(32000))
    write_shards(folder, everything(), 4, count)


def differing(pipeline: MGIEPipeline, llava: Path, apple: Path) -> tuple[int, int]:
    """How many tensors of the files are not the pipeline's, and how many were looked at."""
    mllm, unet = (torch.load(apple / name, mmap=True, weights_only=True) for name in ("mllm.pt", "unet.pt"))
    ours = {f"edit_head.{name}": tensor for name, tensor in pipeline.encoder.edit_head.state_dict().items()}
    ours |= {f"unet.{name}": tensor for name, tensor in pipeline.denoiser.unet.state_dict().items()}
    ours |= {to_published(name): tensor for name, tensor in pipeline.encoder.llava.state_dict().items()}
    files = [mllm, {f"unet.{name}": tensor for name, tensor in unet.items()}]
    wrong = seen = 0
    for tensors in (*files, *(tensors for _, tensors in each_shard(llava, progress=False))):
        for name in set(tensors) if tensors is mllm else set(tensors) - set(TABLES):
            wrong += not torch.equal(ours[name], tensors[name].to(ours[name].dtype))
            seen += 1
    return wrong, seen


def load_and_edit(folder: Path, steps: int, words: int) -> dict[str, str]:
    """In a process of its own: Apple's files and LLaVA become an editor; what was found."""
    pipeline = MGIEPipeline.from_pretrained(
        folder / "mgie_7b", llava=folder / "llava", diffusion=folder / "diffusion", torch_dtype=torch.bfloat16
    )
    wrong, seen = differing(pipeline, folder / "llava", folder / "mgie_7b")
    started = time.monotonic()
    picture = Image.effect_mandelbrot((512, 512), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    pipeline(picture, "make it red", seed=0, num_inference_steps=steps, max_new_tokens=words)
    seconds = time.monotonic() - started
    return {
        "found": f"{seen - wrong} of {seen} tensors are their file's; an edit at 512 px in {steps} steps, "
        f"{words} words: {seconds:.0f} s"
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """What came of one process."""

    what: str
    seconds: float
    own: float
    """GiB that it allocated at most."""
    mapped: float
    """GiB at most, mapped files included: the system takes these back when it needs the room."""
    found: str


def through(what: str, command: list[str]) -> Door:
    """Run `command` and watch its memory."""
    print(what, flush=True)
    started, own, mapped = time.monotonic(), 0, 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said)
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except ProcessLookupError:
                break
            now = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)
                   if key in ("RssAnon", "VmRSS")}  # fmt: skip
            own, mapped = max(own, now.get("RssAnon", 0)), max(mapped, now.get("VmRSS", 0))
            time.sleep(0.05)
        if process.wait():
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        said.seek(0)
        facts = json.loads(said.read().splitlines()[-1])
    return Door(
        what=what, seconds=time.monotonic() - started, own=own * 1024 / GIB, mapped=mapped * 1024 / GIB,
        found=facts.get("found", ""),
    )  # fmt: skip


def run(folder: Path, steps: int, words: int) -> list[Door]:
    """All doors, one after the other; what the next one does not need is removed."""
    mgie = [sys.executable, "-m", "mgie"]
    llama, delta, llava, apple = (folder / name for name in ("llama", "delta", "llava", "mgie_7b"))
    make_tower(folder / "tower")
    make_llama(llama)
    make_delta(delta, folder / "tower")
    merge = [*mgie, "delta", "apply", str(llama), str(delta), "--out", str(llava), "--json"]
    doors = [through("`mgie delta apply`: LLaMA and a delta become LLaVA", merge)]
    shutil.rmtree(llama)
    shutil.rmtree(delta)

    make_diffusion(folder / "diffusion")
    make_apple(apple)
    me = [sys.executable, __file__, "--folder", str(folder), "--steps", str(steps), "--words", str(words)]
    doors.append(
        through("`MGIEPipeline.from_pretrained`: Apple's files over LLaVA, an edit", [*me, "--inside"])
    )

    make_checkpoint(folder / "checkpoint", llava, apple)
    extract = [*mgie, "extract", str(folder / "checkpoint"), "--llava", str(llava)]
    extract += ["--diffusion", str(folder / "diffusion"), "--json", "--out"]
    again, release = folder / "apple_again", folder / "release"
    door = through(
        "`mgie extract --format apple`: the original's training checkpoint",
        [*extract, str(again), "--format", "apple"],
    )
    doors.append(replace(door, found=all_equal(apple, again)))
    shutil.rmtree(again)
    doors.append(
        through(
            "`mgie extract --dtype float16`: the same checkpoint as a release",
            [*extract, str(release), "--dtype", "float16"],
        )
    )
    return doors


def all_equal(one: Path, other: Path) -> str:
    """Whether Apple's two files are the same in both folders."""
    wrong = seen = 0
    for name in ("mllm.pt", "unet.pt"):
        left, right = (torch.load(each / name, mmap=True, weights_only=True) for each in (one, other))
        wrong += sum(not torch.equal(tensor, right[key]) for key, tensor in left.items())
        seen += len(left)
    return f"{seen - wrong} of {seen} tensors are bit for bit those it was made of"


def report(doors: list[Door]) -> str:
    """The figures as Markdown."""
    lines = [
        "# Weights of the published sizes",
        "",
        f"Made by `python benchmarks/full_size.py` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, diffusers {diffusers.__version__}. LLaVA-7B (two "
        "shards), CLIP ViT-L/14, Stable Diffusion 1.5 and Apple's two files of random numbers in half "
        'precision; each door in a process of its own. "own" is the most memory that it allocated, '
        '"with files" the most with the files that it mapped.',
        "",
        "| door | seconds | own, GiB | with files, GiB | found |",
        "| --- | ---: | ---: | ---: | --- |",
        *(f"| {d.what} | {d.seconds:.0f} | {d.own:.1f} | {d.mapped:.1f} | {d.found} |" for d in doors),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the files, go through the doors, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="where 50 GB are free; a new folder in it is made and removed"
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(load_and_edit(options.folder, options.steps, options.words)))
        return
    free = shutil.disk_usage(options.folder or tempfile.gettempdir()).free / GIB
    if free < 50:
        raise SystemExit(f"{free:.0f} GiB are free, expected 50; name another place with --folder.")
    folder = Path(tempfile.mkdtemp(prefix="full-size-", dir=options.folder))
    try:
        doors = run(folder, options.steps, options.words)
    finally:
        shutil.rmtree(folder)
    options.out.write_text(report(doors))


if __name__ == "__main__":
    main()
