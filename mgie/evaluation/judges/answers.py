"""Answers in a file that outlives a kill: none is ever paid for twice.

One JSON object a line, each with the hash of what it says, appended and synced as it comes. A last line that
a kill tore is dropped and told of; any other damaged line is refused. The first answer of a question stays.
"""

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_patch.folders import locked
from mgie.data.files import MALFORMED, regular
from mgie.errors import ConfigError, DataError
from mgie.evaluation.judges.base import Answer, Ask, Judge, canonical, key_of

Record = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Answers:
    """What is known already, and where what comes is written."""

    path: Path | None
    """None: nothing is kept beyond this process."""
    budget: int | None = None
    """How many new answers may be asked for. None: any number."""
    kept: dict[str, Answer] = field(default_factory=dict)
    torn: int = 0
    """Bytes of a torn last line that were dropped."""
    new: int = 0
    """Questions that were put to the judge by this process."""
    used: dict[str, Answer] = field(default_factory=dict)
    """What this process made use of, by key."""
    _held: threading.RLock = field(default_factory=threading.RLock)
    _at_work: dict[str, threading.Lock] = field(default_factory=dict)

    def once(self, judge: Judge, ask: Ask) -> Answer:
        """The answer to a question, from the file or from the judge. Raises ConfigError where the budget is
        used up; what has come stays."""
        key = key_of(judge.identity, ask)
        with self._held:
            alone = self._at_work.setdefault(key, threading.Lock())
        with alone:  # two threads with one question ask once
            if key not in self.kept:
                self._spend()
                answer = judge.answer(ask, key)
                if answer.status == "error":
                    return answer
                with self._held:
                    self._append(key, judge.identity, ask, answer)
                    self.kept[key] = answer
        with self._held:
            self.used[key] = self.kept[key]
        return self.kept[key]

    def models(self) -> Counter[str]:
        """Which models said that they gave the answers that were used."""
        return Counter(answer.model for answer in self.used.values() if answer.model)

    def tokens(self) -> dict[str, int]:
        """Tokens that the used answers cost, when they came."""
        sums: Counter[str] = Counter()
        for answer in self.used.values():
            sums.update(answer.usage)
        return dict(sorted(sums.items()))

    def _spend(self) -> None:
        with self._held:
            if self.budget is not None and self.new >= self.budget:
                raise ConfigError(
                    f"the budget of {self.budget} new answers is used up: all that came are kept in "
                    f"{self.path}; the same command goes on from there with a larger one."
                )
            self.new += 1

    def _append(self, key: str, identity: Mapping[str, Any], ask: Ask, answer: Answer) -> None:
        if self.path is None:
            return
        record = {
            "key": key, "judge": dict(identity), "repeat": ask.repeat, "attempt": ask.attempt,
            "answer": asdict(answer),
        }  # fmt: skip
        line = canonical(record | {"sha256": _hash(record)}) + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while line:
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def open_answers(path: Path | None, *, budget: int | None = None) -> Iterator[Answers]:
    """The answers of a file, which is held against other processes meanwhile. Raises DataError where a line
    of it is damaged, ConfigError where it is in use."""
    if path is None:
        yield Answers(path=None, budget=budget)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        answers = Answers(path=path, budget=budget)
        if path.exists():
            records, whole, size = _read(path)
            for record in records:
                answers.kept.setdefault(record["key"], _answer(record["answer"]))
            if whole < size:
                answers.torn = size - whole
                os.truncate(path, whole)
        yield answers


def recorded(path: Path) -> tuple[dict[str, Answer], list[Mapping[str, Any]]]:
    """The answers of a file by their keys, and the judges that gave them, none twice. Raises DataError."""
    records, _, _ = _read(path)
    judges = {canonical(record["judge"]): record["judge"] for record in records}
    answers: dict[str, Answer] = {}
    for record in records:
        answers.setdefault(record["key"], _answer(record["answer"]))
    return answers, list(judges.values())


def _read(path: Path) -> tuple[list[Record], int, int]:
    """The records of a file, how many bytes are whole lines, and how many there are."""
    try:
        data = regular(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): expected a file of answers.") from error
    records, at = [], 0
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            records.append(_parsed(line))
        except (*MALFORMED, DataError) as error:
            if at + len(line) + 1 == len(data):
                return records, at, len(data)  # torn where the system had room for a part only
            raise DataError(
                f"{path}, line {number} is damaged: expected answers as they were written; take the line "
                "out, and its question is asked again."
            ) from error
        at += len(line) + 1
    return records, at, len(data)


def _parsed(line: bytes) -> Record:
    record = json.loads(line)
    said = record.pop("sha256")
    if said != _hash(record):
        raise DataError("another hash")
    _answer(record["answer"])
    if not (isinstance(record["key"], str) and isinstance(record["judge"], dict)):
        raise DataError("another form")
    return record


def _answer(said: Mapping[str, Any]) -> Answer:
    return Answer(**{**said, "text": str(said["text"])})


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(record)).hexdigest()


def beside(out: str | Path) -> Path:
    """Where answers are kept unless a place is named: beside a report, for that is replaced whole."""
    out = Path(out)
    return out.with_name(f"{out.name}.answers.jsonl")
