"""A small Stable Diffusion, and pairs with regions, for tests of layouts."""

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from PIL import Image
from small_pipelines import small_sd

from mgie.prepare import prepare
from mgie.toy.pairs import ToyPairs

PLACES = 12
SITE = "mid_block.attentions.0.transformer_blocks.0.attn2"


def write_stable(folder: Path) -> Path:
    """Stable Diffusion, of random weights, as diffusers writes it."""
    torch.manual_seed(0)
    sampler = DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    small_sd(sampler, places=PLACES, widest=32, outside=True).save_pretrained(folder)
    return folder


def write_layouts(folder: Path, *, count: int = 12, edits: bool = True) -> Path:
    """A data set of pairs with regions, from a file of one's own: scenes of the toy world, of which one
    region is a mask; without `edits` nothing is there before, and phrases are short."""
    lines, left = [], folder / "left.png"
    folder.mkdir(parents=True)
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(left)
    for number, pair in enumerate(ToyPairs(count, seed=5, kinds=["layout"])):
        line: dict = {"instruction": pair.instruction if edits else "a cat", "expressive": pair.expressive}
        for name in ("source", "target") if edits else ("target",):
            (folder / f"{number}-{name}.png").write_bytes(getattr(pair, name))
            line[name] = f"{number}-{name}.png"
        line["regions"] = [
            {"phrase": region.phrase if edits else region.phrase.split()[2], "box": region.box}
            for region in pair.regions
        ]
        if number == 0:
            line["regions"][0] = {"phrase": "blue", "mask": "left.png"}
        if number == 1:
            line["regions"] = []
        lines.append(json.dumps(line))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    prepare(f"pairs:{folder / 'pairs.jsonl'}", folder / "set", test=2, progress=False)
    return folder / "set"
