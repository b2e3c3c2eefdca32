"""A small Stable Diffusion, and pairs with regions, for tests of layouts."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mgie.prepare import prepare
from mgie.toy.pairs import ToyPairs

PLACES, WIDTH = 12, 16
SITE = "mid_block.attentions.0.transformer_blocks.0.attn2"


def write_stable(folder: Path) -> Path:
    """Stable Diffusion, of random weights, as diffusers writes it."""
    letters = [*"!abcdefghijklmnopqrstuvwxyz"]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: place for place, name in enumerate(names)}, merges=[])
    tokenizer.model_max_length = PLACES
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=PLACES,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 32), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=WIDTH, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    sampler = DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer, unet=unet,
        scheduler=sampler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
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
