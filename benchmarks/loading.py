"""How fast are examples read: from pixels, from stored features, the original's way?

    python benchmarks/loading.py

Pairs are 512 px JPEGs; CLIP looks at 224 px (256 patches of width 1024), the codec at 256 px, as the 7B
model's. The original's way is written from its description (docs/coming-from-ml-mgie.md, Q17):
open the file, seek, split a line of base64, decode and crop every picture twice, tokenize the prompt three
times. Every way makes ids, labels, looks and pixels of the same pairs; rates are samples per second of
processor time, so other programs on the machine do not count.
"""

import argparse
import base64
import io
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import StackDataset
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_patch.processor import ClipImageConfig, Processor
from llava_patch.tokenizer import LlavaTokenizer
from mgie.data.batches import Batches
from mgie.data.examples import ExampleBuilder
from mgie.data.shards import write_arrow
from mgie.data.sources.legacy import write_legacy
from mgie.data.stored_features import StoredFeatures, write_features
from mgie.data.stored_pairs import FORMATS, StoredPairs
from mgie.prompts import Compat, LlavaPrompts
from mgie.tokens import visual_tokens
from mgie.types import EditPair

QUESTION = "what will this image be like if '{instruction}'"
SIDE, PATCHES, WIDTH, LATENT = 512, 256, 1024, (8, 32, 32)
BATCH = 4


def picture(rng: random.Random) -> bytes:
    """A JPEG of about the size of InstructPix2Pix's: soft shapes and some grain, quality 95."""
    image = Image.new("RGB", (16, 16))
    image.putdata([tuple(rng.randrange(256) for _ in range(3)) for _ in range(256)])
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    grain = np.random.default_rng(rng.randrange(2**31)).normal(0, 6, (SIDE, SIDE, 3))
    image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def make_pairs(count: int) -> list[EditPair]:
    """Pairs with instructions and expressive texts of ordinary length."""
    rng = random.Random(0)
    said = (
        "The photo would become a soft oil painting, with visible brush strokes and warm colors in the sky."
    )
    return [
        EditPair(
            key=f"{number:07d}_{number}_0", instruction="make it look like an oil painting", expressive=said,
            source=picture(rng), target=picture(rng),
        )
        for number in range(count)
    ]  # fmt: skip


class Original:
    """The original data set class, as its description has it."""

    def __init__(self, folder: Path, tokenizer: LlavaTokenizer):
        self.folder, self.tokenizer = folder, tokenizer
        from mgie.data.sources.legacy import load_plain

        self.index = load_plain((folder / "ipr2pr.pkl").read_bytes())["task"]
        self.said = json.loads((folder / "ipr2pr_expressive.json").read_text())
        self.clip = CLIPImageProcessorPil()
        self.names = " ".join(visual_tokens(8))

    def picture(self, cell: str) -> Image.Image:
        """Decode, crop, make 512 px."""
        image = Image.open(io.BytesIO(base64.b64decode(cell))).convert("RGB")
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """256 px in [-1, 1]."""
        values = np.array(image.resize((256, 256))) / 255
        return torch.tensor((2 * values - 1).transpose(2, 0, 1), dtype=torch.float32)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        (entry,) = self.index[number]
        lines = (self.folder / "ipr2pr.tsv").open()  # for every sample, and left to the garbage collector
        lines.seek(entry["lineidx"])
        source, target = lines.readline().strip().split("\t")
        # Every picture is decoded and cropped twice: for CLIP and its answer, and once more for the
        # diffusion side.
        clip_pixels = self.clip(self.picture(source), return_tensors="pt")["pixel_values"][0]
        self.picture(target)
        before, after = self.pixels(self.picture(source)), self.pixels(self.picture(target))
        question = QUESTION.replace("{instruction}", entry["instruction"])
        asked = f"USER: {question}\n<im_start>{'<im_patch>' * PATCHES}<im_end> ASSISTANT: "
        whole = f"{asked}{self.said[entry['input']]['expressive']} {self.names}</s>"
        # The whole conversation, then the round, then the part that is asked.
        ids = self.tokenizer.encode(whole)
        labels = list(ids)
        length, start = (
            len(self.tokenizer.encode(whole.split("</s>")[0])),
            len(self.tokenizer.encode(asked)) - 2,
        )
        labels[: start + 1] = [-100] * (start + 1)
        assert length + 1 == len(ids)
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "clip_pixels": clip_pixels,
            "source": before,
            "target": after,
        }


def rates(ways: dict[str, Iterable[object]], samples: int, seconds: float) -> dict[str, float]:
    """Samples per second of this process's time, in turns of about a second, so that a slow minute meets all
    ways alike."""
    running = {name: iter(way) for name, way in ways.items()}
    done, spent = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
    for way in running.values():
        next(way)
    while min(spent.values()) < seconds:
        for name, way in running.items():
            start = time.process_time()
            while time.process_time() - start < 1:
                next(way)
                done[name] += samples
            spent[name] += time.process_time() - start
    return {name: done[name] / spent[name] for name in ways}


def endless(data: Original, count: int) -> Iterable[dict[str, torch.Tensor]]:
    """Collated batches of the original in a random order."""
    rng = random.Random(0)
    while True:
        rows = [data[rng.randrange(count)] for _ in range(BATCH)]
        batch = {
            name: torch.stack([row[name] for row in rows]) for name in ("clip_pixels", "source", "target")
        }
        for name, filler in (("input_ids", 0), ("labels", -100)):
            values = [row[name] for row in rows]
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=filler)
        yield batch


def prepare(folder: Path, pairs: list[EditPair]) -> None:
    """The same pairs in the original's files, as Arrow, and their features: random numbers of the real
    shapes."""
    sized = [(pair, (SIDE, SIDE)) for pair in pairs]
    write_legacy(sized, folder / "legacy", "train")
    facts = write_arrow(sized, folder / "arrow", "train")
    (folder / "arrow" / "facts.json").write_text(
        json.dumps({"format": FORMATS[-1], "splits": {"train": asdict(facts)}})
    )
    for start in range(len(pairs)):
        found = {name: torch.randn(1, *LATENT) for name in ("vae_source", "vae_target")}
        found |= {"clip": torch.randn(1, PATCHES, WIDTH)}
        write_features(folder / "arrow" / "features" / "train", found, start, len(pairs), "float16")
    made_by = {"vae": "", "clip": ""}
    about = {"files": {}, "made_by": made_by, "precision": "float16", "pairs": {"train": facts.sha256}}
    (folder / "arrow" / "features" / "features.json").write_text(json.dumps(about))


def measure(folder: Path, tokenizer_folder: Path, count: int, seconds: float) -> dict[str, float]:
    """Way of reading -> samples per second of one core."""
    prepare(folder, make_pairs(count))
    tokenizer = LlavaTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_tokens(["<im_patch>", "<im_start>", "<im_end>"])
    tokenizer.add_tokens(visual_tokens(8))
    processor = Processor(tokenizer, ClipImageConfig.clip(224), PATCHES, "vicuna_v1_1", True)
    stored = StoredPairs(folder / "arrow", "train")
    unread = StoredPairs(folder / "arrow", "train", pictures=False)
    features = StoredFeatures(folder / "arrow", "train")

    def ours(pairs: object, builder: object) -> Iterable[object]:
        data = Batches(pairs, builder, seed=0, batch_size=BATCH, micro_batch_size=BATCH)  # type: ignore[arg-type]
        return data.steps()

    def builder(compat: Compat) -> ExampleBuilder:
        prompts = LlavaPrompts(processor, question=QUESTION, count=8, compat=compat)
        return ExampleBuilder(prompts, size=256, max_length=512, compat=compat)

    ways = {
        "the original's way": endless(Original(folder / "legacy" / "train", tokenizer), count),
        "from pixels, as the reference resizes": ours(stored, builder("reference")),
        "from pixels": ours(stored, builder("default")),
        "from stored features": ours(StackDataset(unread, features), builder("default")),
    }
    return rates(ways, BATCH, seconds)


def report(found: dict[str, float], count: int) -> str:
    """The figures as Markdown."""
    base = found["the original's way"]
    lines = [
        "# Reading examples: samples per second of one core",
        "",
        f"Made by `python benchmarks/loading.py` on {time.strftime('%Y-%m-%d')}: "
        f"{platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__} with {torch.get_num_threads()} "
        f"thread, {count} pairs of "
        f"{SIDE} px JPEGs, batches of {BATCH}, processor time.",
        "",
        "| way of reading | samples/s | times the original |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {value:.1f} | {value / base:.1f} |" for name, value in found.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(
        description="Samples per second of one core, ours beside the original's way."
    )
    parser.add_argument("--tokenizer", type=Path, default=Path("tests/golden/mgie/tokenizer"))
    parser.add_argument("--count", type=int, default=48, help="pairs")
    parser.add_argument("--seconds", type=float, default=20.0, help="processor time per way of reading")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.tokenizer, options.count, options.seconds)
    text = report(found, options.count)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
