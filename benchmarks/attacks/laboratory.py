"""Run a command in a process of its own, strike it, and judge how it ended.

A process that has imported the program forks one child for each command, so that a command costs no imports;
`real` starts a new Python instead, as a user does.
"""

import gc
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

RESULTS = ("done", "sentence", "traceback", "hang", "silent")
GOOD = ("done", "sentence")
MEMORY = 10 << 30
"""Address space of one command: a request for more must not take the machine with it."""
LIMIT = 180.0
"""Seconds after which a command hangs. On an idle machine these take one to ten."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A signal to a running command."""

    signal: int
    after: float
    """Seconds after its start, or after `when` first held."""
    when: Callable[[], bool] = lambda: True
    group: bool = True
    """To all its processes, or to the first alone."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended."""

    words: list[str]
    code: int | None
    """As a shell counts: 0 to 255, or minus the signal that ended it; None for one that had to be killed."""
    out: str
    err: str
    seconds: float
    struck: bool = False

    @property
    def told(self) -> str:
        """The last line of stderr; a bar before it on the same line belongs to it."""
        lines = [line for line in self.err.split("\n") if line.strip()]
        return lines[-1].split("\r")[-1].strip() if lines else ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The outcome of one try."""

    result: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One thing that is done to the program."""

    what: str
    attack: Callable[[Path, random.Random], Found]
    """Called with an empty folder to work in, and random numbers of its own."""


@dataclass(kw_only=True)
class Tally:
    """What came out of an experiment."""

    counts: Counter = field(default_factory=Counter)
    bad: list[dict] = field(default_factory=list)
    seconds: float = 0.0


def run(
    words: list[str],
    folder: Path,
    *,
    limit: float | None = None,
    strikes: tuple[Strike, ...] = (),
    real: bool = False,
    encoding: str = "utf-8",
) -> Ran:
    """Run `mgie WORDS` in `folder`."""
    return _finish(_start(words, folder, "1", real, encoding), limit, strikes)


def run_two(words: list[str], others: list[str], folder: Path, *, apart: float) -> tuple[Ran, Ran]:
    """Two commands at the same time, the second one `apart` seconds later."""
    first = _start(words, folder, "1")
    time.sleep(apart)
    second = _start(others, folder, "2")
    return _finish(first, None, ()), _finish(second, None, ())


def call(
    function: Callable[[], int],
    folder: Path,
    *,
    limit: float | None = None,
    strikes: tuple[Strike, ...] = (),
) -> Ran:
    """Run a function instead of a command; its answer is the exit code."""
    return _finish(_start([], folder, "1", function=function), limit, strikes)


def judge(ran: Ran, wrong: Callable[[], str] | str = "") -> Found:
    """The outcome of a command; `wrong` says what is not as it should be after exit code 0, or nothing."""
    shown = ran.told[-300:]
    if ran.code is None:
        return Found(result="hang", detail=f"{ran.seconds:.0f} s; {shown}")
    if ran.code == 0:
        detail = wrong if isinstance(wrong, str) else wrong()
        return Found(result="silent" if detail else "done", detail=detail)
    if "Traceback (most recent" in ran.err or ran.code != 2:
        return Found(result="traceback", detail=f"exit {ran.code}: {shown}")
    if not ran.told.startswith("mgie: "):
        return Found(result="traceback", detail=f"exit 2, but no sentence: {shown}")
    line = [line for line in ran.err.split("\n") if line.strip()][-1]
    if bar_before(line):
        return Found(result="traceback", detail=f"exit 2, the sentence is glued to a bar: {line[-200:]}")
    return Found(result="sentence", detail=shown)


def bar_before(line: str) -> bool:
    """Whether a sentence stands on a line with what is still to be seen of a bar."""
    parts = line.split("\r")
    at = parts[-1].find("mgie: ")
    return at > 0 or (len(parts) > 1 and len(parts[-1].rstrip()) < len(parts[-2].rstrip()))


def worst(*found: Found) -> Found:
    """The one outcome of several commands: the last of RESULTS wins."""
    return max(found, key=lambda each: RESULTS.index(each.result))


def perform(name: str, tries: list[Try], scratch: Path, *, seed: int, jobs: int, numbers: list[int]) -> Tally:
    """Make these tries in `jobs` processes at a time; a try's random numbers follow from both."""
    began, tally = time.monotonic(), Tally()
    scratch.mkdir(parents=True, exist_ok=True)
    records = [scratch / f"lane-{lane}.jsonl" for lane in range(jobs)]
    children = []
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # each command that is refused collects garbage: not also among all that is loaded
    for lane, record in enumerate(records):
        child = os.fork()
        if child == 0:
            _lane(name, tries, numbers[lane::jobs], scratch, seed, record)
        children.append(child)
    for child in children:
        status = os.waitpid(child, 0)[1]
        if status:
            raise RuntimeError(f"a lane of {name} ended with {os.waitstatus_to_exitcode(status)}")
    for record in records:
        for line in record.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            tally.counts[row["result"]] += 1
            if row["result"] not in GOOD:
                tally.bad.append(row)
    tally.bad.sort(key=lambda row: row["number"])
    tally.seconds = time.monotonic() - began
    return tally


def warm_up(names: list[str]) -> None:
    """Import modules before any child is forked, so that each finds them."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # made on the way, or of a package that is not wanted for itself
            print(f"not imported: {name} ({type(error).__name__})", file=sys.stderr)


def _lane(name: str, tries: list[Try], numbers: list[int], scratch: Path, seed: int, record: Path) -> None:
    code = 1
    try:
        with record.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for number in numbers:
                folder = scratch / f"{number:05d}" / "here"
                folder.mkdir(parents=True)
                try:
                    found = tries[number].attack(folder, random.Random(f"{name} {seed} {number}"))
                except Exception as error:  # one try less is no reason to lose the others
                    traceback.print_exc()
                    found = Found(result="traceback", detail=f"in the laboratory itself: {error!r}")
                row = {"number": number, "what": tries[number].what, **asdict(found)}
                file.write(json.dumps(row, ensure_ascii=True) + "\n")
                file.flush()
                if found.result not in GOOD:
                    print(f"{name} {number}: {row['what']}: {found.result}: {found.detail!r}", flush=True)
                shutil.rmtree(folder.parent)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _start(
    words: list[str],
    folder: Path,
    name: str,
    real: bool = False,
    encoding: str = "utf-8",
    function: Callable[[], int] | None = None,
) -> tuple[int, float, list[str], Path, Path]:
    out, err = folder.parent / f"{name}.out", folder.parent / f"{name}.err"
    began = time.monotonic()
    if real:
        command = [sys.executable, "-m", "mgie", *words]
        with out.open("wb") as first, err.open("wb") as second:
            environment = os.environ | {"PYTHONIOENCODING": encoding}
            child = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=first, stderr=second,
                start_new_session=True, env=environment,
            ).pid  # fmt: skip
        return child, began, words, out, err
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_a_command(words, folder, out, err, encoding, function)
    return child, began, words, out, err


def _finish(
    started: tuple[int, float, list[str], Path, Path], limit: float | None, strikes: tuple[Strike, ...]
) -> Ran:
    child, began, words, out, err = started
    code, struck = _watch(child, began, limit or LIMIT, strikes)
    texts = [
        path.read_bytes().decode("utf-8", errors="replace") if path.exists() else "" for path in (out, err)
    ]
    seconds = time.monotonic() - began
    return Ran(words=words, code=code, out=texts[0], err=texts[1], seconds=seconds, struck=struck)


def _be_a_command(
    words: list[str],
    folder: Path,
    out: Path,
    err: Path,
    encoding: str,
    function: Callable[[], int] | None,
) -> None:
    """The child's life: never returns."""
    code = 1
    try:
        os.setsid()
        # Bars lock across forks: a command that is killed while it draws one would keep all that come after.
        tqdm.set_lock(threading.RLock())
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout.reconfigure(encoding=encoding, errors="strict")  # type: ignore[union-attr]
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]
        sys.argv = ["mgie", *words]
        if function is None:
            from mgie.cli import main

            code = main(words)
        else:
            code = function()
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, UnicodeError):
                code = code or 1
        os._exit(code)


def _watch(child: int, began: float, limit: float, strikes: tuple[Strike, ...]) -> tuple[int | None, bool]:
    """Wait for a child, strike it when it is time, and end it and all of its group at the limit."""
    waiting, due, struck = list(strikes), None, False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _end(child)
            return os.waitstatus_to_exitcode(status), struck
        now = time.monotonic()
        if now - began > limit:
            _end(child)
            os.waitpid(child, 0)
            return None, struck
        if waiting:
            if due is None and waiting[0].when():
                due = now + waiting[0].after
            if due is not None and now >= due:
                strike, due, struck = waiting.pop(0), None, True
                try:
                    (os.killpg if strike.group else os.kill)(child, strike.signal)
                except ProcessLookupError:  # it has no group of its own yet
                    os.kill(child, strike.signal)
        time.sleep(0.004)


def _end(child: int) -> None:
    """Kill what is left of a child's group: it was made a group of its own."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return
