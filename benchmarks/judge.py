"""What the judge of the toy world lets pass: right pictures, and some wrong in a known way.

python benchmarks/judge.py
"""

import argparse
import platform
import time
from collections import Counter
from pathlib import Path

import numpy
import PIL

from mgie.data.images import decode
from mgie.toy.judge import UNDECIDED, judge
from mgie.toy.pairs import ToyPairs
from mgie.toy.spoil import spoiled


def measure(count: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """What was judged -> how often, and how often it was called right."""
    tried, right = Counter[str](), Counter[str]()
    for pair in ToyPairs(count, seed=seed, split="test"):
        for what, picture in [("the target", decode(pair.target, name=pair.key)), *spoiled(pair)]:
            tried[what] += 1
            right[what] += judge(pair, picture).right
    return tried, right


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description="How often the judge calls spoiled outputs right.")
    parser.add_argument("--count", type=int, default=1000, help="held-out pairs")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    tried, right = measure(options.count, options.seed)
    lines = [
        "# What the judge of the toy world calls right",
        "",
        f"Made by `python benchmarks/judge.py --count {options.count} --seed {options.seed}` on "
        f"{time.strftime('%Y-%m-%d')}: {platform.machine()}, Python {platform.python_version()}, "
        f"NumPy {numpy.__version__}, Pillow {PIL.__version__}. Held-out pairs of all kinds, 64 px; an output "
        f"may be {UNDECIDED} of the way from what is right to any rival (mgie/toy/judge.py).",
        "",
        "| output | judged | called right |",
        "| --- | ---: | ---: |",
        *(f"| {what} | {tried[what]} | {right[what] / tried[what]:.1%} |" for what in tried),
    ]
    text = "\n".join(lines) + "\n"
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
