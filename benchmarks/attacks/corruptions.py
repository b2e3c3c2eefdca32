"""One damaged file of a checkpoint, release or data set, and the next command.

Weights and pictures that are not what was written must not be used without a word. Files that nothing is
computed from (README.md, rejected.jsonl) may be anything.
"""

import random
import re
from pathlib import Path

from attacks.damage import damage, swap, ways
from attacks.laboratory import Found, Ran, Try, judge, run, worst
from attacks.world import ALONE, EDIT, EXTRACT, SAMPLES, TRAIN, TRAINED, World, checkpoints, difference

TOLD = re.compile(r"skip|damaged|goes on from|lower|not intact", re.IGNORECASE)
"""How a command may say that it went another way than it was asked to."""
CHECK = ["prepare", "--check", "data"]
COUNTS = {"resume": 70, "extract": 50, "edit": 130, "data set": 70, "features": 30}


def tries(world: World) -> list[Try]:
    """Each kind of folder, damaged so many times."""
    found = []
    for kind, attack in (
        ("resume", resume), ("extract", extract), ("edit", edit), ("data set", use_data),
        ("features", use_stored),
    ):  # fmt: skip
        for _ in range(COUNTS[kind]):

            def attempt(folder: Path, rng: random.Random, attack=attack) -> Found:
                return attack(world, folder, rng)

            found.append(Try(what=f"damage before {kind}", attack=attempt))
    return found


def spoil(folder: Path, rng: random.Random) -> tuple[str, Path]:
    """Damage one file below a folder; what was done, and to which."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    while True:
        path = rng.choice(files)
        if rng.random() < 0.06:
            other = rng.choice(files)
            if other.read_bytes() != path.read_bytes():
                swap(path, other)
                return f"{path.relative_to(folder)} and {other.relative_to(folder)} swapped", path
            continue
        way = rng.choice(ways(path))
        if damage(path, way, rng):
            return f"{way.__name__} {path.relative_to(folder)}", path


def resume(world: World, folder: Path, rng: random.Random) -> Found:
    """A run that was stopped half-way, with a damaged checkpoint (or two), log or run.yaml."""
    world.place("data", at=folder)
    world.place("half/runs", at=folder)
    (folder / "half/runs").rename(folder / "runs")
    newest = folder / "runs/tiny/checkpoints" / checkpoints(folder)[-1]
    what, _ = spoil(folder / "runs/tiny" if rng.random() < 0.4 else newest, rng)
    both = rng.random() < 0.2
    if both:
        for name in checkpoints(folder):
            data = folder / "runs/tiny/checkpoints" / name / "trained.safetensors"
            if data.exists():
                damage(data, ways(data)[0], rng)
        what += ", and trained.safetensors of each checkpoint"
    ran = run([*TRAIN, *ALONE], folder)

    def wrong() -> str:
        said = bool(TOLD.search(ran.err + ran.out))
        if problem := world.wrong_run(folder):
            return problem
        if both:
            return "began again from nothing, and nobody had asked for it"
        used = f" {int(newest.name)}/{SAMPLES} " in ran.err  # where the bar began
        return "" if said or used else "the damaged one was skipped in silence"

    return _named(what, judge(ran, wrong))


def extract(world: World, folder: Path, rng: random.Random) -> Found:
    """A finished run with one damaged file, extracted."""
    world.place("runs", at=folder)
    newest = folder / "runs/tiny/checkpoints" / checkpoints(folder)[-1]
    what, _ = spoil(newest if rng.random() < 0.7 else folder / "runs/tiny", rng)
    named = ["--checkpoint", newest.name] if rng.random() < 0.4 else []
    ran = run([*EXTRACT, *named], folder)

    def wrong() -> str:
        problem = world.wrong("extract", folder)
        if problem and not named and TOLD.search(ran.err + ran.out):
            return ""  # an older checkpoint, as it said
        return problem

    return _named(what + (", named by hand" if named else ""), judge(ran, wrong))


def edit(world: World, folder: Path, rng: random.Random) -> Found:
    """A release with one damaged file, edited with."""
    world.place("release", "photo.png", at=folder)
    what, path = spoil(folder / "release", rng)
    ran = run(EDIT, folder)

    def wrong() -> str:
        if path.suffix == ".safetensors":
            return "weights that are not what was written were used"
        return world.wrong("edit", folder)

    return _named(what, judge(ran, wrong))


def use_data(world: World, folder: Path, rng: random.Random) -> Found:
    """A data set with one damaged file: checked, and trained on."""
    world.place("data", at=folder)
    what, path = spoil(folder / "data", rng)
    return _named(what, train_on(world, folder, checked=path.suffix != ".md"))


def use_stored(world: World, folder: Path, rng: random.Random) -> Found:
    """Stored features, one file of them damaged: checked, and trained from."""
    world.place("stored", at=folder)
    (folder / "stored").rename(folder / "data")
    what, path = spoil(folder / "data/features", rng)
    checked = run(CHECK, folder)
    ran = run([*TRAIN, *ALONE, "--data.features", "[vae,clip]"], folder)

    def wrong() -> str:
        return "features that are not what was written were trained from" if path.suffix != ".json" else ""

    return _named(what, worst(_checked(checked), judge(ran, wrong)))


def train_on(world: World, folder: Path, *, checked: bool = True) -> Found:
    """Check and train on a data set that may not be what it was: the right weights come out, or a word."""
    check = run(CHECK, folder) if checked else None
    ran = run([*TRAIN, *ALONE], folder)
    last = f"runs/tiny/checkpoints/{checkpoints(world.folder)[-1]}"

    def wrong() -> str:
        return difference(folder / last, world.folder / last, TRAINED)

    found = judge(ran, wrong)
    return worst(_checked(check), found) if check else found


def _checked(ran: Ran) -> Found:
    """What `--check` said; that it found no fault is judged by what is made of the data."""
    found = judge(ran)
    return Found(result=found.result, detail=f"--check: {found.detail}")


def _named(what: str, found: Found) -> Found:
    return Found(result=found.result, detail=f"{what}: {found.detail}")
