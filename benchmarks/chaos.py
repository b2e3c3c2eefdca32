"""What becomes of work and data under kills, signals, damage and nonsense? There are five ways to end.

python benchmarks/chaos.py
python benchmarks/chaos.py --only corruptions --number 17 --seed 0
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from attacks import corruptions, data_sets, inputs, kills, laboratory, numbers, shares, signals
from attacks.laboratory import RESULTS, Tally, perform
from attacks.world import World, make_world

REPORT = Path(__file__).with_suffix(".md")
EXPERIMENTS = {
    "kills": kills.tries,
    "signals": signals.tries,
    "corruptions": corruptions.tries,
    "inputs": inputs.tries,
    "numbers": numbers.tries,
    "data": data_sets.tries,
    "shares": shares.tries,
}
ABOUT = {
    "kills": "SIGKILL into a command at any moment, and the same command again",
    "signals": "SIGTERM, SIGINT, SIGUSR1 and SIGHUP, to one process and to all",
    "corruptions": "one file of a checkpoint, a release or a data set is damaged",
    "inputs": "pictures, instructions, paths, tables, recipes and words of every kind",
    "numbers": "every option and every key of a recipe: in its range, outside, not finite, no number",
    "data": "data sets that are not what they were, and two commands on one place",
    "shares": "processes that share out everything (FSDP2) are killed, hang, are told to stop, find the disk "
    "full, and their newest checkpoint is damaged",
}
VERSIONS = ("torch", "transformers", "diffusers", "datasets", "Pillow")


def report(tallies: dict[str, Tally], command: str, seed: int) -> str:
    """The report: a table, and everything that did not end well."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [
        "# What becomes of work and data under kills, signals, damage and nonsense",
        "",
        f"`{command}`, {date.today()}; {os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB, "
        f"Python {platform.python_version()}, {versions}.",
        "",
        "- done: exit code 0, and the result was compared with the true one;",
        "- sentence: exit code 2, and one sentence that says what is wrong;",
        "- traceback: any other end; hang: none within the time limit;",
        "- silent: exit code 0, but the result is wrong, or something was lost.",
        "",
        f"| what | tries | {' | '.join(RESULTS)} | minutes |",
        f"| --- |{' ---: |' * (len(RESULTS) + 2)}",
    ]
    for name, tally in tallies.items():
        cells = [tally.counts.total(), *(tally.counts[result] for result in RESULTS)]
        lines.append(f"| {name}: {ABOUT[name]} | {' | '.join(map(str, cells))} | {tally.seconds / 60:.1f} |")
    bad = [(name, row) for name, tally in tallies.items() for row in tally.bad]
    lines += ["", "Every try can be repeated: `python benchmarks/chaos.py --only WHAT --number N --seed S`."]
    lines += (
        ["", f"## What did not end well ({len(bad)})", "", "| what | N | S | try | end | detail |"]
        if bad
        else []
    )
    lines += ["| --- | ---: | ---: | --- | --- | --- |"] if bad else []
    for name, row in bad:
        cells = [name, row["number"], seed, row["what"], row["result"], row["detail"][:240]]
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Make the world, attack it, write the report; 1 where something did not end well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=EXPERIMENTS, nargs="+", default=list(EXPERIMENTS))
    parser.add_argument("--number", type=int, nargs="+", help="only these tries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="commands at a time")
    parser.add_argument("--limit", type=float, default=180, help="seconds after which a command hangs")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th try; 1 for all")
    parser.add_argument("--report", type=Path, help="default: chaos.md beside this script, of whole runs")
    arguments = parser.parse_args()
    whole = arguments.every == 1 and arguments.number is None and set(arguments.only) == set(EXPERIMENTS)
    target = arguments.report or (REPORT if whole else None)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    laboratory.LIMIT = arguments.limit
    began, tallies = time.monotonic(), {}
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        alone = arguments.only == ["shares"]  # which makes its own
        world = World(folder=folder) if alone else make_world(folder / "world", twice=arguments.every == 1)
        times = ", ".join(f"{verb} {seconds:.1f}" for verb, seconds in world.seconds.items())
        print(f"the world is made in {time.monotonic() - began:.0f} s; seconds: {times}", flush=True)
        for name in arguments.only:
            tries = EXPERIMENTS[name](world)
            chosen = arguments.number or range(arguments.seed % arguments.every, len(tries), arguments.every)
            tallies[name] = perform(
                name, tries, folder / name, seed=arguments.seed, jobs=arguments.jobs, numbers=list(chosen)
            )
            counts = ", ".join(f"{tallies[name].counts[result]} {result}" for result in RESULTS)
            print(f"{name}: {counts}; {tallies[name].seconds:.0f} s", flush=True)
            if target:
                command = " ".join(["python benchmarks/chaos.py", *sys.argv[1:]])
                target.write_text(report(tallies, command, arguments.seed), encoding="utf-8")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(tally.bad for tally in tallies.values()))


def _cell(value: object) -> str:
    """Text inside a table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
