"""Runs whose processes share out everything (FSDP2), and whatever may come to them.

A small task, but the program's own loop, engine and checkpoints. After each attack the same command again
must reach, to the bit, what an undisturbed run does.
"""

import errno
import gc
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from attacks.laboratory import Found, Strike, Try, call, judge, worst
from torch import nn

from mgie.config import RunConfig, load_run
from mgie.data.batches import Batches
from mgie.errors import UserError
from mgie.train import fit
from mgie.training import world as worlds
from mgie.training.fsdp import ShardedEngine
from mgie.training.task import AbstractTask
from mgie.training.world import REQUEUE, Interrupted, World
from mgie.types import Batch, Draws, Losses, Term
from mgie.weights import checkpoint, shards

SAMPLES, BATCH, EVERY = 72, 6, 12
"""A checkpoint comes with every second of twelve steps."""
TIMEOUT = 6.0
"""Seconds that processes wait for one that hangs."""
PACE = 0.05
"""Seconds of a step: most of a run is the steps, not the start."""
DAMAGES = ("", "", "a bit", "a cut", "a file")
"""What becomes of the newest checkpoint besides; twice of five times nothing."""
KINDS = ("all are killed",) * 6 + ("one is killed", "one hangs", "SIGTERM", "a full disk")
"""One of ten tries each, the first one six."""


class Lines(AbstractTask):
    """Layers whose rows no two or three processes divide evenly."""

    weights = {"square": 1.0}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.editor = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(7, 7) for _ in range(3))})

    def counts(self, batch: Batch) -> dict[str, int]:
        """Samples."""
        return {"square": len(batch.keys)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """As far from a half as they are."""
        states = draws.posterior.flatten(1)
        for layer in self.editor["layers"]:
            states = layer(states).tanh()
        return {"square": Term(sum=(states - 0.5).square().sum(), count=len(batch.keys))}


class Positions(Batches):
    """Of a batch nothing but its positions."""

    def __init__(self, rank: int, size: int):
        self._rank, self._share = rank, BATCH // size

    @property
    def epoch(self) -> int:
        """The whole run."""
        return SAMPLES

    def steps(self, start: int = 0, stop: int | None = None) -> Iterator[list[Batch]]:
        """One micro-batch a step."""
        nothing = torch.zeros(self._share, 0)
        for step in range(start, stop or SAMPLES, BATCH):
            time.sleep(PACE)
            first = step + self._rank * self._share
            mine = tuple(range(first, first + self._share))
            yield [Batch(
                input_ids=nothing.long(), labels=nothing.long(), mask=nothing.bool(), read_at=nothing.long(),
                clip_pixels=torch.zeros(0, 3, 1, 1), source=torch.zeros(self._share, 3, 1, 1),
                target=torch.zeros(self._share, 3, 1, 1), has_source=torch.ones(self._share).bool(),
                keys=tuple(map(str, mine)), positions=mine,
            )]  # fmt: skip


def draws_of(batch: Batch) -> Draws:
    """Of each position its own."""
    one = [torch.randn(7, 1, 1, generator=torch.Generator().manual_seed(at)) for at in batch.positions]
    noise = torch.stack(one)
    times = torch.zeros(len(one))
    return Draws(posterior=noise, noise=noise, t=times.long(), keep=times)


@cache
def settings() -> RunConfig:
    """The recipe `tiny`, of which only the loop's keys count."""
    over = {
        "out": "runs", "train.samples": SAMPLES, "train.batch_size": BATCH, "save.every": EVERY,
        "save.keep": 3, "log.every": BATCH, "preview.every": 0, "train.ema": 0.5, "optim.lr": 0.01,
        "optim.lrs": "{}",
        "train.strategy": "fsdp2",
    }  # fmt: skip
    run = load_run("tiny", [f"--{key}={value}" for key, value in over.items()])
    return replace(run, train=replace(run.train, groups=("all",)))


def one_process() -> int:
    """What each process does, as `mgie train` does it; its exit code."""
    run, sentence = settings(), ""
    worlds.PATIENCE = 1  # nobody reads along
    try:
        timeout = timedelta(seconds=TIMEOUT)
        with World(run.folder, threads=1, timeout=timeout) as world, world.holding(run.folder):
            found = world.from_main(lambda: checkpoint.find(run.folder)).path
            task = Lines()
            fit(
                run, ShardedEngine(world, clip=1.0, bf16=False), task,
                {"all": list(task.editor.parameters())}, Positions(world.rank, world.size), draws_of,
                found=found,
            )  # fmt: skip
    except Interrupted as stopped:
        return stopped.code
    except UserError as error:
        sentence = str(error)
    if not sentence:
        return 0
    gc.collect()
    os.write(2, f"\nmgie: {sentence}\n".encode())  # bars of several processes stand on one line
    return 2


def processes(size: int, harm: Callable[[int, list[int]], None] | None = None) -> int:
    """As many of them, as torchrun starts them; the worst of their exit codes. `harm(rank, pids)` is called
    in each before it begins, and with rank -1 here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pids: list[int] = []
    for rank in range(size):
        if (pid := os.fork()) == 0:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
            if harm:
                harm(rank, [])
            code = one_process()
            os._exit(code)
        pids.append(pid)
    if harm:
        harm(-1, pids)
    codes = []
    while pids:
        pid, status = os.wait()
        pids.remove(pid)
        codes.append(os.waitstatus_to_exitcode(status))
        if len(pids) == 1 and 2 in codes:  # one that hangs: its machine ends it
            os.kill(pids[0], signal.SIGKILL)
    return next((code for code in (1, 2, REQUEUE) if code in codes), max(map(abs, codes)))


def strike_one(what: int, after: float, rng: random.Random, rank: int, pids: list[int]) -> None:
    """A signal to one of them."""
    if rank == -1:
        time.sleep(after)
        os.kill(rng.choice(pids), what)


def fill_disk(chosen: int, number: int, rank: int, pids: list[int]) -> None:
    """From the file of that number on, this process finds the disk full."""
    del pids
    synced = os.fsync
    left = [number]

    def fsync(handle: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    if rank == chosen:
        os.fsync = fsync


def damage(folder: Path, rng: random.Random, how: str) -> None:
    """One file of the newest checkpoint is not what it was."""
    saved = sorted((folder / "runs/tiny/checkpoints").glob("[0-9]*"))
    if not how or len(saved) < 2:  # a run with no intact one is refused, and this is known
        return
    file = rng.choice(sorted(path for path in saved[-1].rglob("*") if path.is_file()))
    content = bytearray(file.read_bytes())
    if how == "a bit":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    elif how == "a cut":
        file.write_bytes(content[: rng.randrange(len(content))])
    else:
        file.unlink()


def end_of(folder: Path) -> tuple[dict[str, bytes], list[Any]]:
    """The bytes of every tensor of the last checkpoint, and the samples that the log has."""
    found = checkpoint.find(folder / "runs/tiny").path
    assert found is not None and shards.are_in(found)
    state, saved = checkpoint.load(found)
    kinds = {"trained": saved.trained, "ema": saved.ema or {}, "optimizer": saved.optimizer}
    tensors = {
        f"{kind} {name}": each.numpy().tobytes()
        for kind, held in kinds.items()
        for name, each in held.items()
    }
    told = {int(step) for step in re.findall(r'"step": (\d+)', (folder / "runs/tiny/log.jsonl").read_text())}
    return tensors, [state.samples, state.steps, state.skipped, sorted(told)]


def attack(folder: Path, rng: random.Random, *, size: int, kind: str, how: str, truth: Path) -> Found:
    """One attack, what it does to the newest checkpoint, and the same command again."""
    long = PACE * SAMPLES / BATCH + 2.5
    after, strikes, harm = rng.uniform(0.2, long), (), None
    if kind in ("all are killed", "SIGTERM"):
        each = signal.SIGKILL if kind == "all are killed" else signal.SIGTERM
        strikes = (Strike(signal=each, after=after),)
    elif kind == "a full disk":
        harm = partial(fill_disk, rng.randrange(size), rng.randrange(12))
    else:
        harm = partial(strike_one, signal.SIGKILL if kind == "one is killed" else signal.SIGSTOP, after, rng)
    ran = call(partial(processes, size, harm), folder, strikes=strikes)
    if ran.code not in (0, REQUEUE, -signal.SIGKILL, -signal.SIGTERM, 9):
        found = judge(ran)
        if found.result != "sentence":
            return found
    damage(folder, rng, how)
    again = call(partial(processes, size), folder)

    def wrong() -> str:
        left = [path.name for path in (folder / "runs").rglob(".*")]
        tensors, facts = end_of(folder)
        true, known = end_of(truth)
        differing = [name for name in true if tensors.get(name) != true[name]]
        return "; ".join([*left, *differing[:3], *([f"{facts} for {known}"] if facts != known else [])])

    return worst(judge(again, wrong))


def tries(world: Any, count: int = 200) -> list[Try]:
    """As many, with two and three processes."""
    truths = {size: world.folder / f"shares-{size}" for size in (2, 3)}
    for size, truth in truths.items():
        (truth / "here").mkdir(parents=True, exist_ok=True)
        ran = call(partial(processes, size), truth / "here")
        assert ran.code == 0, ran.err
    found = []
    for number in range(count):
        size, kind, how = (
            2 + (number + number // 10) % 2,
            KINDS[number % len(KINDS)],
            DAMAGES[(number + number // 10) % len(DAMAGES)],
        )
        told = f"{size} processes: {kind}{f', then {how} of the newest checkpoint' if how else ''}"
        doing = partial(attack, size=size, kind=kind, how=how, truth=truths[size] / "here")
        found.append(Try(what=told, attack=lambda folder, rng, doing=doing: doing(folder, rng)))
    return found
