"""How much memory does one edit take, and of what?

    python benchmarks/memory.py

The same parts are loaded and used by the libraries' own classes beside it: what is a process's own
("anonymous"), and what are pages of files that it has mapped, which the system takes back when it needs them.
One thread, float32.
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

REPORT = Path(__file__).with_suffix(".md")
SIDE, STEPS = 256, 4
WIDTH, LAYERS = 1024, 8
UNET = {
    "sample_size": 32, "in_channels": 8, "out_channels": 4, "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2, "cross_attention_dim": 256, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
VAE = {
    "block_out_channels": (64, 128, 256, 256), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


class Watch:
    """The largest amounts of memory in each phase, in MiB."""

    def __init__(self):
        self.phase, self.peaks = "start", {}
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            kinds = (re.search(rf"{kind}:\s+(\d+)", status) for kind in ("RssAnon", "RssFile"))
            own, mapped = (int(kind[1]) >> 10 for kind in kinds if kind)
            before = self.peaks.get(self.phase, (0, 0, 0))
            self.peaks[self.phase] = tuple(map(max, before, (own, mapped, own + mapped)))
            time.sleep(0.002)

    def tell(self) -> None:
        """Print them."""
        print(json.dumps(self.peaks))


def make_release(folder: Path) -> None:
    """Parts of random numbers around the tokenizer of the small base."""
    import yaml
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    from mgie.build import Parts, build_release
    from mgie.config import load_run
    from mgie.diffusion.process import VarianceProcess
    from mgie.models.codec import Codec
    from mgie.models.denoisers.unet import UNetDenoiser
    from mgie.models.editor import Editor
    from mgie.models.encoders.edit_head import EditHead
    from mgie.models.encoders.llava import LlavaEncoder
    from mgie.prompts import LlavaPrompts
    from mgie.tokens import visual_tokens
    from mgie.toy.parts import new_llava
    from mgie.toy.pretrain import SETTINGS
    from mgie.weights.release import write_release

    run, settings = load_run("tiny"), yaml.safe_load(SETTINGS.read_text())
    settings["language"] |= {
        "hidden_size": WIDTH, "intermediate_size": 2752, "num_hidden_layers": LAYERS, "num_attention_heads": 8
    }  # fmt: skip
    llava, processor = new_llava(settings)
    llava.grow(processor.tokenizer.add_tokens(visual_tokens(8)))
    prompts = LlavaPrompts(processor, question="{instruction}", count=8)
    head = EditHead(replace(run.model.encoder.edit_head, queries=77), d_in=WIDTH, e_out=256)
    editor = Editor(
        encoder=LlavaEncoder(llava, head, visual_ids=prompts.visual_ids),
        denoiser=UNetDenoiser(UNet2DConditionModel(**UNET)),
        codec=Codec(AutoencoderKL(**VAE)),
    )
    parts = Parts(editor=editor, prompts=prompts, process=VarianceProcess(DDPMScheduler()))
    asked = {"size": SIDE, "num_inference_steps": STEPS, "guidance_scale": 7.5, "image_guidance_scale": 1.5}
    release = build_release(parts, run)
    write_release(replace(release, settings=release.settings | asked), folder)


def ours(folder: str) -> None:
    """Load and edit."""
    watch = Watch()
    import torch

    torch.set_num_threads(1)
    watch.phase = "imports"
    from PIL import Image

    from mgie.pipeline import MGIEPipeline

    watch.phase = "loading"
    pipeline = MGIEPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.linear_gradient("L").convert("RGB").resize((SIDE, SIDE))
    watch.phase = "language model"
    imagined = pipeline.imagine(picture, "make it dark")
    watch.phase = "painting"
    pipeline.paint(picture, imagined, seed=0)
    watch.tell()


def libraries(folder: str) -> None:
    """The same parts in the libraries' classes, with the three rows of InstructPix2Pix."""
    watch = Watch()
    import torch

    torch.set_num_threads(1)
    watch.phase = "imports"
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    watch.phase = "loading"
    content = json.loads(Path(folder, "llava", "config.json").read_text())
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config = LlamaConfig(**{key: content[key] for key in keys})
    llama = LlamaForCausalLM.from_pretrained(f"{folder}/llava", config=config, dtype=torch.float32)
    CLIPVisionModel.from_pretrained(f"{folder}/llava/vision_tower", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet")
    vae = AutoencoderKL.from_pretrained(f"{folder}/vae")
    with torch.no_grad():
        watch.phase = "language model"
        llama.generate(torch.randint(5, 200, (1, 60)), max_new_tokens=48, do_sample=False)
        watch.phase = "painting"
        scheduler = EulerAncestralDiscreteScheduler()
        scheduler.set_timesteps(STEPS)
        source = vae.encode(torch.zeros(1, 3, SIDE, SIDE)).latent_dist.mode()
        latents, words = torch.randn_like(source) * scheduler.init_noise_sigma, torch.randn(3, 77, 256)
        sources = torch.cat([source, source, source * 0])
        for t in scheduler.timesteps:
            noisy = torch.cat([torch.cat([scheduler.scale_model_input(latents, t)] * 3), sources], dim=1)
            both, picture, nothing = unet(noisy, t, encoder_hidden_states=words).sample.chunk(3)
            guess = nothing + 7.5 * (both - picture) + 1.5 * (picture - nothing)
            latents = scheduler.step(guess, t, latents).prev_sample
        vae.decode(latents / vae.config.scaling_factor)
    watch.tell()


def report(found: dict[str, dict[str, list[int]]]) -> str:
    """The figures as Markdown."""
    import torch

    lines = [
        "# Memory of one edit, in MiB",
        "",
        f"Made by `python benchmarks/memory.py` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, one thread, float32, "
        f"{SIDE} px, three rows.",
        "",
        "| phase | mgie: own | mapped | together | libraries: own | mapped | together |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for phase in ("imports", "loading", "language model", "painting"):
        cells = [str(value) for way in ("ours", "libraries") for value in found[way][phase]]
        lines.append(f"| {phase} | {' | '.join(cells)} |")
    lines += [
        "",
        "The largest values of each phase. Pages of mapped files are counted as a process's memory",
        "(`ru_maxrss`), though the system takes them back when it needs them. The libraries leave weights",
        "mapped as they lie in the file; mgie copies them, so that no file need stay as it is, and types may",
        "change. While a file is copied it lies in memory beside its copy: until 2026-11-21 all of it, which",
        "is where the half GiB above the original's came from; since then 128 MiB of it at a time",
        "(`llava_patch/shards.py`).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Both ways, each in a process of its own."""
    if len(sys.argv) == 3:
        {"ours": ours, "libraries": libraries}[sys.argv[1]](sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as folder:
        make_release(Path(folder, "release"))
        found = {}
        for way in ("ours", "libraries"):
            words = [sys.executable, __file__, way, f"{folder}/release"]
            told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            found[way] = json.loads(told.splitlines()[-1])
    REPORT.write_text(report(found))
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
