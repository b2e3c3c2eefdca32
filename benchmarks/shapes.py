"""What should a language model that learnt from squares see of a picture that is none?

    python benchmarks/shapes.py --model _ckpt/tiny

Crops of the held-out photographs of the toy world in several shapes, each edited by one of nine instructions.
An edit is right where the output is nearer to what was asked than to any other edit, or to none.
"""

import argparse
import platform
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image, ImageOps

from mgie.data.images import fitted_size, resize, square
from mgie.pipeline import MGIEPipeline
from mgie.toy import photos

REPORT = Path(__file__).with_suffix(".md")
SHAPES = ((1, 1), (3, 2), (2, 1), (1, 2), (3, 1))
WAYS = {
    "whole, squeezed": lambda picture: picture,
    "the centre square": lambda picture: square(picture, min(picture.size)),
    "whole, padded": lambda picture: ImageOps.pad(picture, (max(picture.size),) * 2, color="grey"),
}


def crop(draw: Random, image: Image.Image, shape: tuple[int, int], side: int) -> Image.Image:
    """A random part of this shape, half to all of the most that there is, with about side x side pixels."""
    most = min(image.width / shape[0], image.height / shape[1])
    width, height = (round(most * part * draw.uniform(0.5, 1.0)) for part in shape)
    height = round(width * shape[1] / shape[0])
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    part = image.crop((left, top, left + width, top + height))
    return resize(part, fitted_size(part.size, side=side))


def distances(source: Image.Image, output: Image.Image) -> dict[str, float]:
    """Mean absolute difference (0 to 1) between an output and each edit of the source, "copy" among them."""
    results = {"copy": source, **{op: photos.apply(op, source) for op in photos.OPS}}
    return {
        op: float(np.abs(np.subtract(output, made, dtype=float)).mean()) / 255 for op, made in results.items()
    }


def measure(model: str, count: int, seed: int) -> dict[tuple[int, int], dict[str, tuple[float, float]]]:
    """Shape -> way -> share that is right, and the outputs' distance from the targets over the sources'."""
    pipeline = MGIEPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    found: dict[tuple[int, int], dict[str, tuple[float, float]]] = {}
    for shape in SHAPES:
        draw, ops = Random(seed), list(photos.OPS)
        names = [draw.choice(photos.SPLITS["test"]) for _ in range(count)]
        pictures = [crop(draw, photos.photo(name), shape, pipeline.size) for name in names]
        asked = [ops[number % len(ops)] for number in range(count)]
        words = [draw.choice(photos.ASKED[op]) for op in asked]
        found[shape] = {}
        for way, seen in WAYS.items():
            right, off, copied = 0, 0.0, 0.0
            for picture, op, instruction in zip(pictures, asked, words):
                imagined = pipeline.imagine(seen(picture), instruction)
                output = pipeline.paint(picture, imagined, seed=seed)[0]
                far = distances(picture, output)
                right += min(far, key=lambda name: far[name]) == op
                off, copied = off + far[op], copied + distances(picture, picture)[op]
            found[shape][way] = right / count, off / copied
    return found


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="_ckpt/tiny")
    parser.add_argument("--count", type=int, default=90)
    parser.add_argument("--seed", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(asked.model, asked.count, asked.seed)
    lines = [
        "# What the language model sees of a picture that is no square",
        "",
        f"Made by `python benchmarks/shapes.py` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, torch "
        f"{torch.__version__}, the recipe `tiny`, {asked.count} edits of held-out photographs for each shape",
        f"(seed {asked.seed}). Right edits, and the outputs' distance from the targets over that of the",
        "untouched pictures.",
        "",
        f"| width : height | {' | '.join(WAYS)} |",
        f"| --- | {' | '.join('---' for _ in WAYS)} |",
    ]
    for shape, ways in found.items():
        cells = (f"{right:.0%}, {ratio:.3f}" for right, ratio in ways.values())
        lines.append(f"| {shape[0]} : {shape[1]} | {' | '.join(cells)} |")
    lines += [
        "",
        "What is seen costs nothing here. But these are edits of a whole photograph: where an instruction",
        "names a thing, one that is cut off cannot be seen at all, and a padded picture is a smaller one. So",
        "pictures are squeezed, in training and in use.",
    ]
    REPORT.write_text("\n".join(lines) + "\n")
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
