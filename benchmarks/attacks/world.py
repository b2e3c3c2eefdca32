"""The small world that is attacked, and what is true of it."""

import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from attacks.laboratory import Found, Ran, Strike, call, judge, run, warm_up

SAMPLES, BATCH = 48, 4
PREPARE = ["prepare", "toy", "--out", "data", "--count", str(SAMPLES), "--test", "8", "--seed", "3"]
STORE = [*PREPARE, "--store", "vae,clip", "--model", "tiny"]
OWN = ["prepare", "pairs:pairs", "--out", "mine", "--test", "2"]
TRAIN = [
    "train", "--config", "tiny", "--data.path", "data", "--out", "runs", "--train.threads", "1",
    "--train.samples", str(SAMPLES), "--train.batch_size", str(BATCH), "--train.micro_batch_size", str(BATCH),
    "--train.groups", "[edit_head]", "--optim.lrs", "{}",
    "--log.every", str(BATCH), "--save.every", "8", "--preview.every", "0",
]  # fmt: skip
"""Only the edit head: what is saved is small, and a run takes seconds."""
ALONE = ["--data.workers", "0"]
EXTRACT = ["extract", "runs/tiny", "--out", "release"]
EDIT = ["edit", "photo.png", "make it red", "--model", "release", "--out", "out.png", "--steps", "1"]
EVALUATE = [
    "evaluate", "--model", "release", "--suite", "toy", "--count", "2", "--steps", "1", "--out", "report",
]  # fmt: skip
UNDISTURBED = {
    "store": STORE, "prepare": PREPARE, "own": OWN, "train": [*TRAIN, *ALONE], "extract": EXTRACT,
    "edit": EDIT, "evaluate": EVALUATE,
}  # fmt: skip
TRAINED = ("trained.safetensors", "ema.safetensors", "optimizer.safetensors")
LINKED = 1 << 18
"""Larger files are linked into the folder of a try instead of copied: no command writes into them."""
PATIENCE = 1800.0
"""Seconds for what is run first: nothing is imported yet."""
COLOURS = ("red", "blue", "green", "orange")


@dataclass(kw_only=True)
class World:
    """Folders that are only read, and the true results of the commands above."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each command takes here."""

    def place(self, *names: str, at: Path) -> None:
        """Copy things of this world into a folder."""
        for name in names:
            source, target = self.folder / name, at / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, copy_function=_copy, dirs_exist_ok=True)
            else:
                shutil.copy2(source, target)

    def wrong(self, verb: str, folder: Path, *, means: bool = True) -> str:
        """What differs between the result of a command in `folder` and the truth; empty: nothing."""
        if left := leftovers(folder):
            return f"left behind: {', '.join(left[:3])}"
        if verb == "train":
            return self.wrong_run(folder, means)
        if verb == "evaluate":
            names = ("items.jsonl", "sheet.png")
            return difference(folder / "report", self.folder / "report", names)
        places = {
            "prepare": "data",
            "store": "stored",
            "own": "mine",
            "extract": "release",
            "edit": "out.png",
        }
        place = places[verb]
        return difference(folder / ("data" if verb == "store" else place), self.folder / place)

    def wrong_run(self, folder: Path, means: bool = True) -> str:
        """What differs between the last checkpoint of a run and that of one that was never disturbed.

        Losses are `means` since the last log line, and a stop writes one.
        """
        last = f"runs/tiny/checkpoints/{SAMPLES:010d}"
        if problem := difference(folder / last, self.folder / last, TRAINED):
            return problem
        states = [json.loads((place / last / "state.json").read_text()) for place in (folder, self.folder)]
        told = [name for name in states[1] if name != "seconds" and (means or name != "losses")]
        changed = [name for name in told if states[0][name] != states[1][name]]
        return f"state.json differs in {changed}" if changed else ""


def make_world(folder: Path, *, twice: bool) -> World:
    """Run each command undisturbed; `twice` also says whether a second time gives the same, and how long it
    takes with everything imported. Raises RuntimeError where a command fails."""
    for story in ("cli", "prepare", "train", "extract", "edit", "pipeline", "evaluate"):
        importlib.import_module(f"mgie.{story}")
    folder.mkdir(parents=True)
    _must(call(lambda: _first_time(folder), folder, limit=PATIENCE))
    notes = json.loads((folder.parent / "notes.json").read_text())
    world = World(folder=folder, seconds=notes["seconds"])
    warm_up(notes["modules"])
    (folder.parent / "other").mkdir()
    _must(run([*PREPARE[:-1], "4"], folder.parent / "other", limit=PATIENCE))
    shutil.move(folder.parent / "other/data", folder / "other")
    _half(world)
    if twice:
        again = folder.parent / "again"
        again.mkdir()
        world.place("pairs", "photo.png", at=again)
        for verb, words in UNDISTURBED.items():
            world.seconds[verb] = _must(run(words, again, limit=PATIENCE)).seconds
            if problem := world.wrong(verb, again):
                raise RuntimeError(f"`mgie {verb}` twice gives two results: {problem}")
            if verb == "store":
                shutil.rmtree(again / "data")
        shutil.rmtree(again)
    return world


def leftovers(folder: Path) -> list[str]:
    """Hidden and temporary names below a folder: a command that has ended leaves none."""
    marks = re.compile(r"\.(lock|tmp|partial|mgie-\w+)$|^\.")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if marks.search(path.name))


def content(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of each file below a folder, or of the file itself; but for where and when what a data
    set was read from had been."""
    if folder.is_file():
        return {"": hashlib.sha256(folder.read_bytes()).hexdigest()}
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "facts.json":
            data = re.sub(rb'"read": \{.*?\}\s*\}', b"", data, flags=re.DOTALL)
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def untouched(before: dict[str, str], folder: Path) -> Found:
    """Whether the files that were there are there as they were."""
    now = content(folder)
    lost = [name for name, digest in before.items() if now.get(name) != digest]
    return Found(result="silent", detail=f"lost or changed: {lost[:3]}") if lost else Found(result="done")


def checkpoints(folder: Path) -> list[str]:
    """Names of a run's checkpoints, the oldest first."""
    return sorted(path.name for path in (folder / "runs/tiny/checkpoints").glob("[0-9]*"))


def _half(world: World) -> None:
    """A run that was killed in its middle, with two checkpoints."""
    half = world.folder / "half"
    half.mkdir()
    world.place("data", at=half)
    middle = half / "runs/tiny/checkpoints/0000000024/manifest.json"
    strike = Strike(signal=signal.SIGKILL, after=0, when=middle.exists)
    ran = run([*TRAIN, *ALONE], half, limit=PATIENCE, strikes=(strike,))
    if ran.code != -signal.SIGKILL or f"{SAMPLES:010d}" in checkpoints(half):
        raise RuntimeError(f"no run could be stopped half-way: {ran.told}")
    for path in leftovers(half):
        shutil.rmtree(half / path) if (half / path).is_dir() else (half / path).unlink(missing_ok=True)
    shutil.rmtree(half / "data")


def _first_time(folder: Path) -> int:
    """Photographs, pairs, and every command once in one process; notes which modules they need."""
    from mgie.cli import main

    _draw(folder)
    seconds = {}
    for verb, words in UNDISTURBED.items():
        began = time.monotonic()
        if code := main(words):
            return code
        seconds[verb] = time.monotonic() - began
        if verb == "store":
            shutil.move(folder / "data", folder / "stored")
    ours = ("__main__", "__mp_main__", "attacks")
    modules = [name for name in sys.modules if not name.startswith(ours)]
    (folder.parent / "notes.json").write_text(json.dumps({"seconds": seconds, "modules": modules}))
    return 0


def _draw(folder: Path) -> None:
    """A photograph, a folder of own pairs, and one of own things."""
    from PIL import Image

    from mgie.toy.photos import photo
    from mgie.toy.subjects import write_subjects

    write_subjects(folder / "things", count=1)
    photo("cat").resize((96, 64)).save(folder / "photo.png")
    for side in ("before", "after"):
        (folder / "pairs" / side).mkdir(parents=True)
    rows = ["file,instruction"]
    for number in range(12):
        colour = COLOURS[number % len(COLOURS)]
        Image.new("RGB", (32, 32), (9 * number, 40, 80)).save(folder / f"pairs/before/{number:02d}.png")
        Image.new("RGB", (32, 32), colour).save(folder / f"pairs/after/{number:02d}.png")
        rows.append(f"{number:02d}.png,make it {colour} {number}")
    (folder / "pairs/instructions.csv").write_text("\n".join(rows) + "\n")


def difference(found: Path, true: Path, names: tuple[str, ...] | None = None) -> str:
    """What differs between two folders or files, or between these files of them; empty: nothing."""
    one, two = content(found), content(true)
    wanted = set(names) if names else set(one) | set(two)
    wrong = sorted(name for name in wanted if one.get(name) != two.get(name))
    return f"{found.name} differs in {', '.join(wrong[:3]) or 'itself'}" if wrong else ""


def _copy(source: str, target: str) -> None:
    if os.path.getsize(source) > LINKED:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _must(ran: Ran) -> Ran:
    if judge(ran).result != "done":
        raise RuntimeError(f"{ran.words} failed before it was attacked: {ran.err[-2000:]}")
    return ran
