"""Are subjects that look alike painted into one picture without mixing them up?

Each seed has its own photos, training and prompts.

    python benchmarks/subjects.py --model _ckpt/tiny --seeds 1 2 3
"""

import argparse
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

from mgie.pipeline import MGIEPipeline
from mgie.toy.subjects import shares, write_subjects
from mgie.weights.release import INDEX

REPORT = Path(__file__).with_suffix(".md")
VERSIONS = ("torch", "transformers", "diffusers", "peft")
RUNS = {"Seg-Mix": (), "without Seg-Mix": ("--data.subjects.segmix.prob=0",)}
"""What is trained, and what of the recipe is otherwise."""


def judged(model: str, adapter: Path | None, count: int, seed: int) -> dict[str, float]:
    """Shares of right pictures, and of those right with the names exchanged."""
    worn = {} if adapter is None else {"subjects": str(adapter)}
    pipeline = MGIEPipeline.from_pretrained(model, **worn)
    pipeline.set_progress_bar_config(disable=True)
    return shares(lambda words, own: pipeline(None, words, seed=own).images[0], count=count, seed=seed)


def row(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """All that is measured of a seed."""
    folder, found = options.folder / f"seed-{seed}", {}
    shutil.rmtree(folder, ignore_errors=True)
    photos = write_subjects(folder / "photos", seed=seed)
    for name, more in RUNS.items():
        out, began = folder / name.replace(" ", "-"), time.monotonic()
        command = [
            sys.executable, "-m", "mgie", "personalize", str(photos), "--model", options.model, "--config",
            "tiny_subjects", "--out", str(out), f"--seed={seed}", f"--train.samples={options.samples}", *more,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found[f"seconds of training, {name}"] = time.monotonic() - began
        shared = judged(options.model, out, options.count, seed)
        found |= {f"{name}: {what}": share for what, share in shared.items()}
    none = judged(options.model, None, options.count, seed)
    return found | {"no adapter: right": none["right"]}


def report(rows: dict[int, dict[str, float]]) -> str:
    """The report of the seeds that are done."""
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [
        "# Subjects side by side",
        "",
        f"`python {shlex.join(sys.argv)}`, {date.today()}; {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {versions}.",
        "",
        "Two of four marked things at two places, by their names, on prompts that were not learnt "
        "from. Right: each one where it was asked for, with its own mark. Exchanged: asked for "
        "with one in the other's place, and right as if not, which must fail; as must no adapter.",
        "",
        f"| what | {' | '.join(f'seed {seed}' for seed in rows)} |",
        f"| --- |{' ---: |' * len(rows)}",
    ]
    for name in next(iter(rows.values())):
        as_told = "{:.0f}" if name.startswith("seconds") else "{:.1%}"
        lines.append(f"| {name} | {' | '.join(as_told.format(row[name]) for row in rows.values())} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train and judge every seed, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="release of the recipe tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--count", type=int, default=180, help="judged prompts")
    parser.add_argument("--folder", type=Path, default=Path("_ckpt/benchmark-subjects"))
    parser.add_argument("--out", type=Path, default=REPORT)
    options, rows = parser.parse_args(), {}
    if options.count < 1:
        parser.error(f"--count {options.count}: expected at least 1 to judge.")
    if not Path(options.model, INDEX).is_file():
        parser.error(f"--model {options.model} has no {INDEX}: expected a release, as `mgie extract` writes.")
    for seed in options.seeds:
        rows[seed] = row(options, seed)
        options.out.write_text(report(rows))
        print(options.out.read_text(), flush=True)


if __name__ == "__main__":
    main()
