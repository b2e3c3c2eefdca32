"""A run's folder is held by one run at a time, on any machines, and by no dead one.

The system's lock (llava_patch/folders.py) ends with its process, but not everywhere with its machine: an NFS
server may keep it until that machine is back, a disk without locks has only a file that stays, and on some
disks (Lustre with `localflock`, NFS with `local_lock`) a machine knows nothing of another one's locks. So the
holder also gives a sign of life; who comes from another machine waits for one, or takes over.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llava_patch.folders import break_lock, locked
from mgie.errors import ConfigError

BEAT = 10.0
"""Seconds between two signs of life."""
DEAD = 120.0
"""Seconds without one after which a holder is dead: twice as long as NFS remembers what a file was like."""

Sign = tuple[str, int, str, int]
"""Of the last sign: host, process, whose it is, and when it was given by the disk's own clock."""


@contextmanager
def held(place: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `place`, a folder that need not be there, against all other runs.

    A holder on another machine is waited for, DEAD seconds at most, which `say` tells. Whoever was taken for
    dead and is not ends its process when it finds out, as two would write one folder. Raises ConfigError that
    tells who holds it.
    """
    sign = place.with_name(f".{place.name}.alive.json")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(place))
        except ConfigError:
            before = read(sign)
            # Of its own processes a machine knows which are alive.
            if before is None or before[0] == socket.gethostname() or not _silent(sign, before, place, say):
                raise
            _claim(sign, place)
            break_lock(place)
            stack.enter_context(locked(place))
        else:
            before = read(sign)
            elsewhere = before is not None and before[0] != socket.gethostname()
            if before is not None and elsewhere and not _silent(sign, before, place, say):
                raise ConfigError(
                    f"{place} is in use by process {before[1]} on {before[0]}, though this disk's lock says "
                    "nothing of it: wait until that has ended, or choose another place."
                )
        stack.enter_context(_beating(sign, place))
        yield


def read(sign: Path) -> Sign | None:
    """The last sign of life; None where there is none. Opening a file asks its server how it is now."""
    try:
        with sign.open(encoding="utf-8") as file:
            facts, when = json.load(file), os.fstat(file.fileno()).st_mtime_ns
        return str(facts["host"]), int(facts["process"]), str(facts["token"]), when
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _silent(sign: Path, before: Sign, place: Path, say: Callable[[str], None]) -> bool:
    """Whether no other sign comes for so long that its holder is dead."""
    say(
        f"{place} is held by process {before[1]} on {before[0]}: waits up to {DEAD:.0f} seconds for a sign "
        "of life, and goes on if there is none."
    )
    until = time.monotonic() + DEAD
    while time.monotonic() < until:
        time.sleep(BEAT / 4)
        if read(sign) != before:
            return False
    return True


def _claim(sign: Path, place: Path) -> None:
    """Of several that take over one is first. Raises ConfigError for the others."""
    gone = sign.with_name(f"{sign.name}.{uuid.uuid4().hex}")
    try:
        sign.rename(gone)
    except FileNotFoundError as error:
        raise ConfigError(f"{place} was just taken over by another run: choose another place.") from error
    gone.unlink()


@contextmanager
def _beating(sign: Path, place: Path) -> Iterator[None]:
    """Give signs of life from a thread."""
    token, stop = uuid.uuid4().hex, threading.Event()
    facts = {"host": socket.gethostname(), "process": os.getpid(), "token": token}
    sign.write_text(json.dumps(facts), encoding="utf-8")

    def beat() -> None:
        missed = 0
        while not stop.wait(BEAT):
            now = read(sign)
            missed = 0 if now is not None and now[2] == token else missed + 1
            if missed > 1 or (missed and now is not None):
                _give_way(place)
            if not missed:
                try:
                    os.utime(sign)
                except OSError:
                    continue  # a server that does not answer for a moment

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if (now := read(sign)) is not None and now[2] == token:
            sign.unlink(missing_ok=True)


def _give_way(place: Path) -> None:
    """End this process at once: nothing that it would save is its own any more."""
    print(
        f"mgie: {place} was taken over by another run, as this machine gave no sign of life for {DEAD:.0f} "
        "seconds: this one ends without saving.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
