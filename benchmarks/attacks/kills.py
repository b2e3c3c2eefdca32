"""SIGKILL at any moment, then the same command again. It must reach what an undisturbed one does."""

import random
import signal
from pathlib import Path

from attacks.laboratory import Found, Ran, Strike, Try, judge, run
from attacks.world import (
    ALONE,
    EDIT,
    EVALUATE,
    EXTRACT,
    OWN,
    PREPARE,
    STORE,
    TRAIN,
    World,
    checkpoints,
    content,
)

COMMANDS = {
    "prepare": (PREPARE, ()),
    "prepare over an older set": ([*PREPARE, "--overwrite"], ("other",)),
    "store": (STORE, ()),
    "own": (OWN, ("pairs",)),
    "train": ([*TRAIN, *ALONE], ("data",)),
    "train with workers": (TRAIN, ("data",)),
    "extract": (EXTRACT, ("runs",)),
    "extract over an older release": (EXTRACT, ("runs", "release")),
    "edit": (EDIT, ("release", "photo.png")),
    "edit over an older picture": (EDIT, ("release", "photo.png")),
    "evaluate": (EVALUATE, ("release",)),
}
"""What is killed, and what it needs beside it."""
COUNTS = {
    "prepare": 24, "prepare over an older set": 24, "store": 20, "own": 16, "train": 44,
    "train with workers": 12, "extract": 24, "extract over an older release": 20, "edit": 16,
    "edit over an older picture": 8, "evaluate": 12,
}  # fmt: skip
REAL = 10
"""One in so many is a Python of its own, as a user starts it."""


def tries(world: World) -> list[Try]:
    """Each command, killed so many times."""
    found = []
    for name in COMMANDS:
        for number in range(COUNTS[name]):
            real = number % REAL == REAL - 1

            def attack(folder: Path, rng: random.Random, name: str = name, real: bool = real) -> Found:
                return kill(world, name, folder, rng, real=real)

            found.append(Try(what=f"SIGKILL into {name}{' (a new Python)' if real else ''}", attack=attack))
    return found


def kill(world: World, name: str, folder: Path, rng: random.Random, *, real: bool) -> Found:
    """One kill, then the same command again."""
    words, needs = COMMANDS[name]
    verb = name.split()[0]
    world.place(*needs, at=folder)
    sources = content(folder / needs[0]) if needs else {}
    old = _older(world, name, folder)
    after = rng.uniform(0, 1.05 * world.seconds[verb] + (8 if real else 0))
    ran = run(words, folder, strikes=(Strike(signal=signal.SIGKILL, after=after),), real=real)
    moment = f"killed after {after:.2f} s" if ran.code == -signal.SIGKILL else "ended before the kill"
    if ran.code not in (0, -signal.SIGKILL):
        return judge(ran)

    # What has its own name is whole, and nothing that was whole before is gone.
    if problem := _broken(world, verb, folder, old):
        return Found(result="silent", detail=f"{moment}: {problem}")
    saved = checkpoints(folder) if verb == "train" else []

    again = run(words, folder)
    found = judge(again, lambda: world.wrong(verb, folder) or _lost(folder, needs, sources))
    if saved and found.result == "done" and not _went_on(again, saved):
        found = Found(result="silent", detail=f"began again although {saved[-1]} was saved")
    return Found(result=found.result, detail=f"{moment}: {found.detail}")


def _older(world: World, name: str, folder: Path) -> dict[str, str]:
    """What stands in the command's way, where it is to be replaced."""
    if name == "prepare over an older set":
        (folder / "other").rename(folder / "data")
        return content(folder / "data")
    if name == "edit over an older picture":
        (folder / "out.png").write_bytes((world.folder / "photo.png").read_bytes())
        return content(folder / "out.png")
    return content(folder / "release") if name == "extract over an older release" else {}


def _broken(world: World, verb: str, folder: Path, old: dict[str, str]) -> str:
    place = {"prepare": "data", "own": "mine", "extract": "release", "edit": "out.png", "store": ""}.get(verb)
    if place and (folder / place).exists():
        true = world.folder / ("out.png" if verb == "edit" else place)
        if content(folder / place) not in (old, content(true)):
            return f"{place} is neither the old one nor the new one"
    elif place and old:
        beside = [path.name for path in folder.glob(f".{place}.*")]
        return "" if beside else f"{place} is gone, and nothing is beside it"
    return ""


def _lost(folder: Path, needs: tuple[str, ...], sources: dict[str, str]) -> str:
    if not needs or not (folder / needs[0]).exists() or needs[0] == "other":
        return ""
    now = content(folder / needs[0])
    lost = [name for name, digest in sources.items() if now.get(name) != digest]
    return f"{needs[0]} lost {lost[:3]}" if lost else ""


def _went_on(again: Ran, saved: list[str]) -> bool:
    """Whether the bar began where a checkpoint stood; one that was just being written may not count."""
    return any(f"{int(name)}/" in again.err for name in saved)
