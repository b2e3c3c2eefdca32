"""Does an editor do what pictures in its instructions show? Each seed has its own data, training and pairs.

python benchmarks/pictures.py --recipe tiny_mige --seeds 1 2 3
python benchmarks/pictures.py --recipe tiny_pictures --start _ckpt/tiny --seeds 1 2 3
"""

import argparse
import itertools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from mgie.data.images import decode
from mgie.errors import ConfigError
from mgie.pipeline import MGIEPipeline
from mgie.toy.shown import held_out, shares
from mgie.weights.release import INDEX

VERSIONS = ("torch", "transformers", "diffusers")
SETS = {
    "tiny_mige": {"toy": 0.4, "toy:pictures": 0.4, "toy:shown": 0.2},
    "tiny_pictures": {"toy": 0.5, "toy:pictures": 0.5},
}
"""Recipe -> what it learns from, in shares."""
ALONE = {"tiny_mige": ("toy:pictures", "toy:shown"), "tiny_pictures": ("toy:pictures",)}
"""Recipe -> what is also learnt by itself, with `--alone`."""


def mgie(*words: str) -> float:
    """Seconds of a command."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "mgie", *words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def trained(options: argparse.Namespace, sets: dict[str, float], seed: int, folder: Path) -> float:
    """A release of a run on these sets, in folder/model; seconds of its training."""
    places = {}
    for kind, share in sets.items():
        place = folder.parent / f"data-{kind.replace(':', '-')}"
        if not place.exists():
            mgie("prepare", kind, "--out", str(place), "--count", str(options.pairs), "--test", "4",
                 "--seed", str(seed))  # fmt: skip
        places[str(place)] = share
    given = {
        "name": "run", "out": folder, "seed": seed, "data.path": next(iter(places)),
        "data.mixture": json.dumps(places), "train.samples": options.samples,
    }  # fmt: skip
    if options.start:
        given["model.start"] = options.start
    seconds = mgie(
        "train", "--config", options.recipe, *(f"--{name}={value}" for name, value in given.items())
    )
    mgie("extract", str(folder / "run"), "--out", str(folder / "model"))
    return seconds


def measured(folder: Path, kinds: list[str], options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Name -> share, of a release."""
    pipeline = MGIEPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)

    def paint(pair, pictures, number):
        photo = None if pair.source is None else decode(pair.source, name=pair.key)
        return pipeline(photo, pair.instruction, images=list(pictures) or None, seed=number).images[0]

    found = {}
    for kind in kinds:
        told = {"kind": kind, "count": options.count, "seed": seed}
        found |= {f"{kind}, {name}": value for name, value in shares(paint, **told).items()}
        unseen = shares(paint, **told, unseen=True, controls=False)
        found[f"{kind}, combinations never trained"] = unseen["right"]
    found["edits in words"] = words(paint, options.count, seed)
    encoder = pipeline.editor.encoder
    last = (encoder.references if getattr(encoder, "references", None) is not None else encoder).fusion.mlp
    with torch.no_grad():
        last.weight.zero_(), last.bias.zero_()
    off = shares(paint, kind=kinds[0], count=options.count, seed=seed, controls=False)
    return found | {f"{kinds[0]}, fusion off": off["right"]}


def words(paint, count: int, seed: int) -> float:
    """Share of the toy world's own edits that is right."""
    from mgie.toy.judge import judge
    from mgie.toy.pairs import ToyPairs

    pairs = ToyPairs(count, seed=seed, split="test")
    return sum(judge(pairs[at], paint(pairs[at], (), at)).right for at in range(count)) / count


def report(rows: dict[int, dict[str, float]], options: argparse.Namespace) -> str:
    """The report of the seeds that are done."""
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [
        f"# Pictures in instructions: the recipe {options.recipe}",
        "",
        f"`python {shlex.join(sys.argv)}`, {date.today()}; {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {versions}.",
        "",
        f"{options.samples} samples of {options.pairs} pairs of each kind; {options.count} held-out pairs of "
        "each are judged: as shown (right), and with the pictures of another pair, or blank ones, in their "
        "place, or with another pair's words, which must fail; of combinations never trained; and with the "
        "feature fusion off.",
        "",
        f"| what | {' | '.join(f'seed {seed}' for seed in rows)} |",
        f"| --- |{' ---: |' * len(rows)}",
    ]
    for name in next(iter(rows.values())):
        as_told = "{:.0f}" if name.startswith("seconds") else "{:.1%}"
        lines.append(f"| {name} | {' | '.join(as_told.format(row[name]) for row in rows.values())} |")
    return "\n".join(lines) + "\n"


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a sentence where what is asked for cannot be judged, before anything is trained."""
    if options.start and not Path(options.start, INDEX).is_file():
        parser.error(f"--start {options.start} has no {INDEX}: expected a release, as `mgie extract` writes.")
    if options.recipe == "tiny_pictures" and not options.start:
        parser.error("--recipe tiny_pictures begins with a release: give --start _ckpt/tiny.")
    if min(options.samples, options.pairs) < 1:
        told = f"--samples {options.samples} --pairs {options.pairs}"
        parser.error(f"{told}: expected at least 1 of each.")
    try:
        for kind, seed in itertools.product(ALONE[options.recipe], options.seeds):
            held_out(kind.removeprefix("toy:"), count=options.count, seed=seed, unseen=True)
    except ConfigError as error:
        parser.error(f"--count: {error}")


def main() -> None:
    """Train and measure every seed, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=SETS, default="tiny_mige")
    parser.add_argument("--start", help="release to begin with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=24000)
    parser.add_argument("--pairs", type=int, default=8000, help="to learn from, of each kind")
    parser.add_argument("--count", type=int, default=200, help="judged pairs of each kind")
    parser.add_argument("--alone", action="store_true", help="train each kind by itself, too")
    parser.add_argument("--folder", type=Path, default=Path("_ckpt/benchmark-pictures"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    check(options, parser)
    out, rows = options.out or Path(__file__).with_name(f"pictures_{options.recipe}.md"), {}
    for seed in options.seeds:
        folder = options.folder / options.recipe / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        seconds = trained(options, SETS[options.recipe], seed, folder / "joint")
        kinds = [kind.removeprefix("toy:") for kind in ALONE[options.recipe]]
        rows[seed] = measured(folder / "joint" / "model", kinds, options, seed) | {
            "seconds of training": seconds
        }
        for kind in ALONE[options.recipe] if options.alone else ():
            own = folder / kind.replace(":", "-")
            trained(options, {kind: 1.0}, seed, own)
            alone = measured(own / "model", [kind.removeprefix("toy:")], options, seed)
            rows[seed][f"{kind} learnt by itself"] = next(iter(alone.values()))
        out.write_text(report(rows, options))
        print(out.read_text(), flush=True)


if __name__ == "__main__":
    main()
