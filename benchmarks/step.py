"""How long does a step take, of what, and beside the commit before?

    python benchmarks/step.py --before FOLDER

FOLDER is a checkout of the commit before. Both train the recipe `tiny` at the same setting, in turn, each in
a process of its own that lives all the time: a turn is a few steps of one of them, and what is compared are
the turns side by side. Once with the toy world's prompts, and once with such as long as MGIE's own. One
thread, float32. Writes step.md, with the parts of a step.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORT = Path(__file__).with_suffix(".md")
TURNS, STEPS, BATCH = 9, 2, 8
ROWS = ("--train.groups=[new_tokens_only]", "--optim.lrs={}", "--train.align_weight=0.0")
WAYS = {
    "before": ("before", "reference", ()),
    "now": ("now", "reference", ()),
    "now, stored features": ("now", "reference", ("features",)),
    "now, new_tokens_only": ("now", "rows", ()),
    "now, new_tokens_only, stored features": ("now", "rows", ("features",)),
}
"""Way -> whose code, what is trained, what else."""
GROUPS = ("--train.groups=[embeddings, lm_head, edit_head, denoiser]", *ROWS[1:])
LONG = 351
"""Tokens of a conversation at MGIE's own sizes: 256 of the picture, question and answer."""
SETTINGS = {
    "Prompts of the toy world (some 60 tokens)": (),
    f"Prompts as long as MGIE's own (some {LONG} tokens)": (
        "--data.max_length=512",
        f"--model.encoder.question={'the ' * (LONG - 60)}" + "{instruction}",
    ),
}
"""Title -> what of the recipe is otherwise."""

WORKER = """
import json, os, sys, time
from pathlib import Path
import torch
from mgie import train as story
from mgie.config import load_run
words, steps, out = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
run = load_run("tiny", [*words, f"--out={out}"])
from mgie.training.ddp import DdpEngine
real, count, began = DdpEngine.step, 0, 0.0
def step(self):
    global count, began
    done = real(self)
    count += 1
    if count % steps == 0:
        now = time.process_time()
        print("TURN", now - began, flush=True)
        sys.stdin.readline()
        began = time.process_time()
    return done
DdpEngine.step = step
story_train = story if callable(story) else story.train
story_train(run)
losses = [json.loads(line)["loss_ce"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
print("LOSSES", json.dumps(losses), flush=True)
"""


class Worker:
    """A training that takes a few steps when it is told to."""

    def __init__(self, code: Path, words: list[str], out: str):
        environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(words), str(STEPS), out],
            env=environment, cwd=code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.read("TURN")

    def read(self, what: str) -> str:
        """What it says after the word `what`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(what):
                return line.removeprefix(what)
        raise SystemExit(f"a training ended early: {self.process.wait()}")

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def turn(self) -> float:
        """Seconds of a step of the next turn."""
        self.tell()
        return float(self.read("TURN")) / STEPS

    def losses(self) -> list[float]:
        """Those of all its steps, when it has taken them."""
        self.tell()
        return json.loads(self.read("LOSSES"))


def main() -> None:
    """Take turns, compare, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        plain, stored = (f"{place}/{name}" for name in ("plain", "stored"))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        size = ["--count", "64", "--test", "4", "--size", "64"]
        storing = ["--store", "vae,clip", "--model", "tiny", "--precision", "float32"]
        for folder, more in ((plain, []), (stored, storing)):
            command = [sys.executable, "-m", "mgie", "prepare", "toy", "--out", folder, *size, *more]
            subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        sections = [
            section(title, words, place, plain, stored, given.before, given.turns)
            for title, words in SETTINGS.items()
        ]
    write(sections, given.turns)


def section(
    title: str, more: tuple[str, ...], place: str, plain: str, stored: str, before: Path, turns: int
) -> str:
    """Every way at one setting, in turns; a table of them, and the parts of the steps of two."""
    fixed = [
        f"--train.samples={(turns + 1) * STEPS * BATCH}", f"--train.batch_size={BATCH}",
        f"--train.micro_batch_size={BATCH}", "--train.threads=1", "--data.workers=0", f"--log.every={BATCH}",
        "--save.every=1000000", "--preview.every=0", *more,
    ]  # fmt: skip
    workers, asked = {}, {}
    for name, (code, trained, features) in WAYS.items():
        words = [
            *fixed,
            *(ROWS if trained == "rows" else GROUPS),
            f"--data.path={stored if features else plain}",
        ]
        asked[name] = words
        folder = f"{place}/{len(more)}-{re.sub('[^a-z_]+', '-', name)}"
        workers[name] = Worker(before if code == "before" else ROOT, [*words, "--name=run"], folder)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(turns):
        for name in list(workers) if turn % 2 else reversed(workers):
            times[name].append(workers[name].turn())
    losses = {name: worker.losses() for name, worker in workers.items()}
    lines = [f"## {title}", "", table(times, losses)]
    for name in ("now", "now, new_tokens_only, stored features"):
        lines += [f"The parts of a step of `{name}` (`mgie train --profile 6`, seconds of the clock):", ""]
        lines += [profiled(f"{place}/{len(more)}", asked[name])]
    return "\n".join(lines)


def profiled(place: str, words: list[str]) -> str:
    """The parts of a step, as `mgie train --profile` tells them."""
    name = "rows" if ROWS[0] in words else "all"
    more = [f"--train.samples={10 * BATCH}", f"--out={place}", f"--name={name}", "--profile", "6"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mgie", "train", "--config", "tiny", *words[1:], *more]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    return (Path(place) / name / "profile" / "table.md").read_text()


def table(times: dict[str, list[float]], losses: dict[str, list[float]]) -> str:
    """Each way beside the commit before."""
    first = times["before"]
    rows = []
    for name, each in times.items():
        ratios = [old / new for old, new in zip(first, each)]
        away = max(abs(a / b - 1) for a, b in zip(losses["before"][:4], losses[name][:4]))
        rows.append(
            f"| {name} | {1e3 * statistics.median(each):.0f} | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} - {max(ratios):.2f} | {away:.0e} |"
        )
    head = ["| way | ms a step | times as fast | from - to | losses |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"


def write(sections: list[str], turns: int) -> None:
    """The report."""
    import torch

    REPORT.write_text(f"""# A step, beside the commit before

`python benchmarks/step.py --before FOLDER`, {platform.machine()}, torch {torch.__version__}, one thread,
float32, recipe `tiny` with the groups of the original (both tables, edit head, UNet), batches of {BATCH}.
{turns} turns of {STEPS} steps each, side by side; seconds of the processor, as others use the machine; the
ratio is the median of the turns' ratios. `losses` is how far the cross-entropy of the first four steps is
from that of the commit before, relatively.

{chr(10).join(sections)}""")
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
