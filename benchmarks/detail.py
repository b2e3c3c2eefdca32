"""What of a large photo is kept, when a small copy of it was edited?

    python benchmarks/detail.py

Edits whose result at full size is known: those of the toy world's photographs, and another photograph pasted
into the middle. Each is made at full size (what is wanted) and on a copy of a quarter of the side, once as it
is and once softened as an autoencoder does. Then the small edit is enlarged, or transferred (`--detail`).
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from mgie.data.detail import with_detail
from mgie.toy.photos import OPS, PHOTOS, apply, photo

FACTOR = 4
MOST = 640
"""Of the longer side, so that all photographs count alike."""
SOFT = 0.6
"""Deviation in small pixels of what an autoencoder loses."""
PASTED = "another photo in the middle"
FLAT = "one colour in the middle"


def pasted(picture: Image.Image, what: Image.Image) -> Image.Image:
    """The picture with another one over its middle."""
    width, height = picture.width // 2, picture.height // 2
    picture = picture.copy()
    picture.paste(what.resize((width, height), Image.Resampling.LANCZOS), (width // 2, height // 2))
    return picture


def edits() -> dict[str, Callable[[Image.Image, Image.Image], Image.Image]]:
    """What is asked -> (picture, another) -> result."""
    found = {name: lambda picture, _, op=name: apply(op, picture) for name in OPS}
    found[PASTED] = pasted
    found[FLAT] = lambda picture, _: pasted(picture, Image.new("RGB", picture.size, (40, 160, 60)))
    return found


def error(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


def sharpness(picture: Image.Image) -> float:
    """Mean step between neighbours."""
    values = np.asarray(picture, np.float32)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


def measured(name: str, other: str, change: Callable, *, soft: bool) -> tuple[list[float], float]:
    """Errors of enlarging and transferring, their sharpness as parts of what is wanted; seconds."""
    large = ImageOps.contain(photo(name), (MOST, MOST))
    small = large.resize([side // FACTOR for side in large.size], Image.Resampling.BICUBIC)
    wanted, after = change(large, photo(other)), change(small, photo(other))
    if soft:
        after = after.filter(ImageFilter.GaussianBlur(SOFT))
    begun = time.process_time()
    transferred = with_detail(large, small, after)
    seconds = time.process_time() - begun
    enlarged = after.resize(large.size, Image.Resampling.BICUBIC)
    results = [error(each, wanted) for each in (enlarged, transferred)]
    return results + [sharpness(each) / sharpness(wanted) for each in (enlarged, transferred)], seconds


def report() -> str:
    """The means over all photographs as Markdown."""
    names = sorted(PHOTOS)
    lines = [
        "# Detail: a small edit on a large photo",
        "",
        f"Made by `python benchmarks/detail.py` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}; {len(names)} photographs, edited at a "
        f"{FACTOR}th of their side. Error: mean difference from the edit at full size, of 255. Sharpness: "
        "mean step between neighbouring pixels, as a part of what the edit at full size has (1 is right; "
        "more is detail that does not belong there).",
        "",
        "| edit | error, enlarged | error, `--detail` | sharpness, enlarged | sharpness, `--detail` |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    spent = []
    for soft in (False, True):
        for what, change in edits().items():
            rows = []
            for place, name in enumerate(names):
                row, seconds = measured(name, names[place - 1], change, soft=soft)
                rows.append(row)
                spent.append(seconds)
            cells = [mean(column) for column in zip(*rows)]
            told = " | ".join(
                f"{cell:.1f}" if place < 2 else f"{cell:.2f}" for place, cell in enumerate(cells)
            )
            lines.append(f"| {what}{', softened' if soft else ''} | {told} |")
    lines += ["", f"One transfer takes {mean(spent):.2f} s on one thread."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description="What is kept of a large photo's detail.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    text = report()
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
