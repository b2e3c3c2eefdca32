"""Mask, layout, subject and picture in one edit: how often is all of it right?

python benchmarks/composition.py --model _ckpt/tiny_pictures --subjects _ckpt/toy_subjects --seeds 1 2 3
"""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from random import Random

from mgie.data.images import decode, decode_mask
from mgie.pipeline import MGIEPipeline
from mgie.toy.composed import draw_composed
from mgie.toy.judge import judge
from mgie.types import EditPair, Region
from mgie.weights.adapter import FACTS
from mgie.weights.release import INDEX

VERSIONS = ("torch", "transformers", "diffusers", "peft")
WITHOUT = ("all controls", "phrases exchanged", "another picture", "no layout", "no mask")
"""What is judged; all but the first must fail or be worse."""


def exchanged(regions: Sequence[Region]) -> list[Region]:
    """The phrases in each other's boxes."""
    one, other = regions
    return [replace(one, phrase=other.phrase), replace(other, phrase=one.phrase)]


def asked(pair: EditPair, other: EditPair, what: str) -> dict:
    """The controls of a pair, less one of them or with a wrong one."""
    assert pair.mask is not None
    shown = other if what == "another picture" else pair
    told: dict = {"images": [decode(shown.pictures[0], name=pair.key)]}
    if what != "no mask":
        told["mask"] = decode_mask(pair.mask, name=pair.key)
    if what != "no layout":
        told["regions"] = exchanged(pair.regions) if what == "phrases exchanged" else list(pair.regions)
    return told


def row(pipelines: dict[str, MGIEPipeline], count: int, seed: int) -> dict[str, float]:
    """Share of right pictures, of all that is judged."""
    draw, found = Random(f"composed/{seed}"), {}
    pairs = [draw_composed(draw) for _ in range(count)]
    cases = [("with the adapter", what) for what in WITHOUT] + [("no adapter", "all controls")]
    for name, what in cases:
        right = 0
        for number, pair in enumerate(pairs):
            assert pair.source is not None
            told = asked(pair, pairs[(number + 1) % count], what)
            photo = decode(pair.source, name=pair.key)
            images = pipelines[name](photo, pair.instruction, seed=number, **told).images
            right += judge(pair, images[0]).right
        found[what if name != "no adapter" else name] = right / count
    return found


def report(rows: dict[int, dict[str, float]]) -> str:
    """The report of the seeds that are done."""
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [
        "# Mask, layout, subject and picture in one edit",
        "",
        f"`python {shlex.join(sys.argv)}`, {date.today()}; {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {versions}.",
        "",
        "A subject and a look come into their boxes, what a picture shows to the place that is told, and "
        "nothing else changes. The lines below the first leave one control out, or give a wrong one.",
        "",
        f"| what | {' | '.join(f'seed {seed}' for seed in rows)} |",
        f"| --- |{' ---: |' * len(rows)}",
    ]
    for name in next(iter(rows.values())):
        lines.append(f"| {name} | {' | '.join(f'{found[name]:.1%}' for found in rows.values())} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Judge every seed, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="release that reads pictures")
    parser.add_argument("--subjects", required=True, help="adapter of the toy world's subjects")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--count", type=int, default=100, help="judged pairs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options, rows = parser.parse_args(), {}
    if options.count < 1:
        parser.error(f"--count {options.count}: expected at least 1 to judge.")
    if not Path(options.model, INDEX).is_file():
        parser.error(f"--model {options.model} has no {INDEX}: expected a release, as `mgie extract` writes.")
    if not Path(options.subjects, FACTS).is_file():
        parser.error(f"--subjects {options.subjects} has no {FACTS}: `mgie personalize` writes one.")
    pipelines = {
        "with the adapter": MGIEPipeline.from_pretrained(options.model, subjects=options.subjects),
        "no adapter": MGIEPipeline.from_pretrained(options.model),
    }
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
    for seed in options.seeds:
        rows[seed] = row(pipelines, options.count, seed)
        options.out.write_text(report(rows))
        print(options.out.read_text(), flush=True)


if __name__ == "__main__":
    main()
