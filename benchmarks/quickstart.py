"""How long does the quick start take, and how well does its editor edit? Each seed is a whole round: data,
training and measured pairs of its own.

    python benchmarks/quickstart.py --seeds 1 2 3
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

REPORT = Path(__file__).with_suffix(".md")
VERSIONS = ("torch", "transformers", "diffusers", "accelerate")
TARGETS = (
    "12 minutes in all, 95 % right (85 % of every kind), 0.15 of copy's error, 2 % right with other words, "
    "85 % said exactly"
)


def mgie(*words: str) -> tuple[dict, float]:
    """Facts and seconds of a command."""
    began = time.monotonic()
    command = [sys.executable, "-m", "mgie", *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began


def round_of(seed: int, folder: Path, count: int) -> tuple[dict, dict[str, float]]:
    """Facts of the evaluation, and seconds of every step."""
    data, run, model = folder / "data", folder / "runs" / f"seed-{seed}", folder / "model"
    chosen = ("--config", "tiny", "--name", f"seed-{seed}", "--seed", str(seed))
    places = ("--out", str(folder / "runs"), "--data.path", str(data))
    judged = ("--suite", "toy", "--seed", str(seed), "--count", str(count))
    seconds = {}
    _, seconds["prepare"] = mgie("prepare", "toy", "--out", str(data), "--seed", str(seed))
    _, seconds["train"] = mgie("train", *chosen, *places)
    _, seconds["extract"] = mgie("extract", str(run), "--out", str(model))
    facts, seconds["evaluate"] = mgie(
        "evaluate", "--model", str(model), *judged, "--out", str(folder / "report")
    )
    return facts, seconds


def row(seed: int, facts: dict, seconds: dict[str, float]) -> str:
    """A line of the report's table."""
    shares = [f"{facts['right']:.0%}", f"{facts['l1_ratio']:.3f}", f"{facts['control_right']:.1%}"]
    times = [f"{seconds[step]:.0f}" for step in ("prepare", "train", "extract", "evaluate")]
    said = f"{facts['said_exactly']:.0%}"
    cells = [str(seed), *shares, said, *times, f"{sum(seconds.values()) / 60:.1f}"]
    return f"| {' | '.join(cells)} |"


def kinds_row(kind: str, rounds: list[dict]) -> str:
    """A line of the table by kind of edit, over all rounds."""
    found = [facts["by_kind"][kind] for facts in rounds if kind in facts["by_kind"]]
    count = sum(each["n"] for each in found)
    right = sum(each["n"] * each["right"] for each in found) / count
    copied = sum(each["n"] * (each.get("copy_l1") or 0) for each in found)
    ratio = f"{sum(each['n'] * each['l1'] for each in found) / copied:.2f}" if copied else ""
    return f"| {kind} | {count} | {right:.0%} | {ratio} |"


def report(rounds: list[dict], rows: list[str], seeds: list[int], count: int) -> str:
    """The report of the rounds that are done."""
    kinds = sorted({kind for facts in rounds for kind in facts["by_kind"]})
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    command = f"python benchmarks/quickstart.py --seeds {' '.join(map(str, seeds[: len(rounds)]))}"
    lines = [
        "# How long the quick start takes, and how well its editor edits",
        "",
        f"`{command}`, {date.today()}; {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, {versions}.",
        "",
        f"Each seed has its own data, training and {count} held-out pairs. Targets: {TARGETS}.",
        "",
        "| seed | right | L1 / copy's | right with other words | said exactly | "
        "prepare s | train s | extract s | evaluate s | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "| kind of edit | pairs | right | L1 / copy's |",
        "| --- | --- | --- | --- |",
        *(kinds_row(kind, rounds) for kind in kinds),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every round and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--count", type=int, default=400, help="measured pairs per seed")
    parser.add_argument("--folder", type=Path, default=Path("_ckpt/benchmark-quickstart"))
    arguments = parser.parse_args()
    rounds, rows = [], []
    for seed in arguments.seeds:
        folder = arguments.folder / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        facts, seconds = round_of(seed, folder, arguments.count)
        rounds.append(facts)
        rows.append(row(seed, facts, seconds))
        print(rows[-1], flush=True)
        REPORT.write_text(report(rounds, rows, arguments.seeds, arguments.count))


if __name__ == "__main__":
    main()
