"""The folder of an evaluation: its plan, and what is done of it, each file whole.

plan.json               what is made, of what, by what; a command that asks for something else is refused
outputs/NAME.png        what the system made, without loss, by the benchmark's names
made/NAME.json          of each: its hash, that of the picture it was made from, what was said, seconds
scores/VIEW/KEY.json    of each item its numbers, and the hash of all that they are of
results.json items.jsonl report.md ...      the report; results.json is written last

Nothing is trusted because it lies there: a record carries a hash of itself, and those of the pictures that it
is of. What does not agree is done again. Files are written beside the folder and renamed into it, so several
processes may work at once, and one that is killed leaves no half of anything.
"""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from llava_patch.folders import check_out, locked, sweep, sync
from mgie.data.files import MALFORMED
from mgie.errors import ConfigError, DataError
from mgie.evaluation.shards import Shard

PLAN, RESULTS = "plan.json", "results.json"
EVALUATION = "evaluation"
"""Kind of the folder."""
OUTPUTS, MADE, SCORES = "outputs", "made", "scores"
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS}
"""What disks without hard links answer."""


class InUse(ConfigError):
    """Another process writes the report."""


class RunFolder:
    """One evaluation on a disk."""

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self._scratch: Path | None = None
        self._numbers = itertools.count()

    def check(self) -> None:
        """Raise ConfigError or DeviceError where the folder must not or cannot be written."""
        if not (self.out / PLAN).is_file():
            check_out(self.out, kind=EVALUATION)

    @contextmanager
    def writing(self, shard: Shard) -> Iterator[None]:
        """Hold this shard against every other process, with a place to write at. Raises ConfigError where
        another process works on it."""
        home = self.out.resolve()
        home.parent.mkdir(parents=True, exist_ok=True)
        place = home if shard.count == 1 else home.with_name(f"{home.name}.{str(shard).replace('/', '-of-')}")
        with locked(place):
            sweep(home.parent, held=place.name)
            scratch = tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".mgie-partial", dir=home.parent)
            self._scratch = Path(scratch)
            try:
                yield
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                self._scratch = None

    def begin(
        self, plan: Mapping[str, Any], told: Mapping[str, Any], *, free: Collection[str] = ()
    ) -> dict[str, Any]:
        """Write the plan, or go on with that of the folder; what it tells besides, as the first command said
        it. Raises ConfigError that names what differs, but for what is `free`."""
        self.out.mkdir(exist_ok=True)
        if not (self.out / PLAN).exists():
            beside = self._beside(sealed({"plan": dict(plan), "told": dict(told)}))
            sync(beside)
            try:
                os.link(beside, self.out / PLAN)  # unlike a rename, not over another process's
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                beside.replace(self.out / PLAN)
        held = read_record(self.out / PLAN)
        if held is None:
            raise DataError(
                f"{self.out / PLAN} is damaged: choose another --out, or remove that folder and begin anew."
            )
        # As they are read again.
        before, now = held["plan"], json.loads(json.dumps(dict(plan)))
        for key in (*now, *sorted(before.keys() - now.keys())):
            if before.get(key) != now.get(key) and key not in free:
                raise ConfigError(
                    f"{self.out} holds an evaluation with {key}={_short(before.get(key))}, now "
                    f"{key}={_short(now.get(key))} is asked for: choose another --out, or remove that folder."
                )
        return held["told"]

    def put(self, name: str, data: bytes) -> None:
        """Write one file, over an older one."""
        target = self.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._beside(data).replace(target)

    def record(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write what is known of something."""
        self.put(f"{name}.json", sealed(facts))

    def recorded(self, name: str) -> dict[str, Any] | None:
        """What `record` wrote; None where that is not there, or not as it was written."""
        return read_record(self.out / f"{name}.json")

    def has_record(self, name: str) -> bool:
        """Whether `record` wrote something of this name, whatever became of it."""
        return (self.out / f"{name}.json").is_file()

    @property
    def reported(self) -> bool:
        """Whether there is a report."""
        return (self.out / RESULTS).is_file()

    def made(self, output: str) -> dict[str, Any] | None:
        """What is known of an output that is there and as it was made; None where it is not."""
        facts = self.recorded(f"{MADE}/{output}")
        if facts is None or facts.get("sha256") != file_sha(self.out / OUTPUTS / output):
            return None
        return facts

    @contextmanager
    def reporting(self) -> Iterator[Path]:
        """A folder whose files become those of the report, `results.json` last. Raises InUse where another
        process writes it."""
        home = self.out.resolve()
        with ExitStack() as held:
            try:
                held.enter_context(locked(home.with_name(f"{home.name}.report")))
            except ConfigError as error:
                raise InUse(str(error)) from error
            assert self._scratch
            folder = self._scratch / "report"
            folder.mkdir()
            yield folder
            (self.out / RESULTS).unlink(missing_ok=True)  # what is told by halves is not told
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            for path in sorted(files, key=lambda path: path.name == RESULTS):
                target = self.out / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                sync(path)
                path.replace(target)
            shutil.rmtree(folder)

    def _beside(self, data: bytes) -> Path:
        assert self._scratch, "outside of `writing`"
        beside = self._scratch / str(next(self._numbers))
        beside.write_bytes(data)
        return beside


def sealed(facts: Mapping[str, Any]) -> bytes:
    """Facts as JSON, with a hash of themselves."""
    return json.dumps({**facts, "seal": _seal(facts)}, indent=1).encode() + b"\n"


def read_record(path: Path) -> dict[str, Any] | None:
    """What `sealed` wrote; None where it is not there or another."""
    try:
        found = json.loads(path.read_bytes())
        seal = found.pop("seal")
    except MALFORMED:
        return None
    return found if seal == _seal(found) else None


def sha(data: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def file_sha(path: Path) -> str | None:
    """SHA-256 of a file; None where it is not there."""
    try:
        return sha(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _seal(facts: Mapping[str, Any]) -> str:
    return sha(json.dumps(facts, sort_keys=True).encode())


def _short(value: Any) -> str:
    """A setting, or the beginning of a hash."""
    text = "none" if value is None else str(value)
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{64}", text) else text
