"""SIGTERM, SIGINT, SIGUSR1 and SIGHUP, as schedulers and terminals send them. To one, and to all.

A run that has begun is saved, stops, and goes on to the same end; other commands leave nothing half-written.
"""

import json
import random
import signal
from pathlib import Path

from attacks.kills import COMMANDS
from attacks.laboratory import Found, Strike, Try, judge, run
from attacks.world import SAMPLES, TRAIN, World, checkpoints

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
OTHERS = ("prepare", "extract", "edit", "evaluate")
RARE = [*TRAIN, "--log.every", "100000"]
"""A run that has no log line in reach."""


def tries(world: World) -> list[Try]:
    """Each signal to each command."""
    found = []
    for each in SIGNALS:
        for group in (True, False):
            whom = "all processes" if group else "the first process"
            for number in range(4):
                words, how = (RARE, ", no log line in reach") if number == 3 else (TRAIN, "")

                def stop(
                    folder: Path,
                    rng: random.Random,
                    each: signal.Signals = each,
                    group: bool = group,
                    words: list[str] = words,
                ) -> Found:
                    return stop_run(world, folder, rng, each, group, words)

                found.append(Try(what=f"{each.name} to {whom} of train with workers{how}", attack=stop))
            for name in OTHERS:

                def end(
                    folder: Path,
                    rng: random.Random,
                    each: signal.Signals = each,
                    group: bool = group,
                    name: str = name,
                ) -> Found:
                    return end_command(world, folder, rng, each, group, name)

                found.append(Try(what=f"{each.name} to {whom} of {name}", attack=end))
    return found


def stop_run(
    world: World, folder: Path, rng: random.Random, each: signal.Signals, group: bool, words: list[str]
) -> Found:
    """A signal after the first steps: saved where it stopped, and the same command reaches the same end."""
    world.place("data", at=folder)
    quiet = words is RARE
    log, first = folder / "runs/tiny/log.jsonl", folder / "runs/tiny/checkpoints/0000000008/manifest.json"
    strike = Strike(
        signal=each,
        after=rng.uniform(0, world.seconds["train"] / 8),
        when=first.exists if quiet else lambda: log.exists() and log.stat().st_size > 0,
        group=group,
    )
    ran = run(words, folder, strikes=(strike,))
    if ran.code is None or "Traceback (most recent" in ran.err:
        return judge(ran)
    lines = log.read_text().splitlines() if log.exists() else []
    logged = max((json.loads(line)["samples"] for line in lines), default=0)
    kept = int(checkpoints(folder)[-1]) if checkpoints(folder) else 0
    if ran.code == 0:
        if kept != SAMPLES or not ran.struck or quiet:
            return Found(result="silent", detail=f"exit 0 at sample {kept}; struck: {ran.struck}")
        return Found(result="done", detail="it had ended already")
    if ran.code == -each or kept < logged:
        return Found(result="silent", detail=f"exit {ran.code} at sample {logged}, saved is {kept}")
    if ran.code not in (75, 130, 128 + each):
        return judge(ran)
    return judge(run(words, folder), lambda: world.wrong("train", folder, means=not quiet))


def end_command(
    world: World, folder: Path, rng: random.Random, each: signal.Signals, group: bool, name: str
) -> Found:
    """A signal at any moment: the command ends, and the same command again reaches the same end."""
    words, needs = COMMANDS[name]
    world.place(*needs, at=folder)
    strike = Strike(signal=each, after=rng.uniform(0.05, world.seconds[name]), group=group)
    ran = run(words, folder, strikes=(strike,))
    if ran.code not in (0, 75, 130, 128 + each, -each):
        return judge(ran)
    return judge(run(words, folder), lambda: world.wrong(name, folder))
