"""Where expressive instructions come from: nowhere, a file, or a model.

What a model made is kept line by line beside the data set that is being written, so a kill costs one batch at
most and the same command goes on where it was. What another model or summariser made is kept in a file of its
own, which nobody else touches.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mgie.data.express import CLEANING, MAX_NEW_TOKENS, QUESTION, SUMMARY_PROMPT, Expresser, Said, summariser
from mgie.data.files import MALFORMED, read_json
from mgie.data.shards import sampled_hash
from mgie.data.validation import Rejected, Rows, Sized, each
from mgie.errors import ConfigError, DataError
from mgie.types import EditPair

Gate = Callable[[Rows], Iterable[Sized]]


class Given:
    """Expressive instructions from a file: {key: text} or {key: {"instruction", "expressive"}}."""

    def __init__(self, path: str | Path):
        """Raises DataError if the file holds anything else."""

        def understand(rows: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
            told = {key: {"expressive": row} if isinstance(row, str) else row for key, row in rows.items()}
            return {key: (str(row["expressive"]), row.get("instruction")) for key, row in told.items()}

        self._said = read_json(Path(path), understand, '{key: {"instruction", "expressive"}} as JSON')
        self._path, self.used, self.missing = path, 0, 0

    def __call__(self, rows: Rows, gate: Gate) -> Iterable[Sized]:
        """The sound pairs of `rows` with their texts; one made for other words sets its row aside."""
        return gate(each(self._told, rows))

    def _told(self, row: EditPair) -> EditPair:
        text, instruction = self._said.get(row.key, (None, None))
        if instruction not in (None, row.instruction):
            detail = f"{row.key} asks {row.instruction!r}, but its text was made for {instruction!r}."
            raise Rejected(row.key, "other instruction", detail)
        self.used, self.missing = self.used + (text is not None), self.missing + (text is None)
        return row if text is None else replace(row, expressive=text)

    def facts(self) -> dict[str, Any]:
        """How many rows found a text. Raises DataError where none did."""
        if not self.used:
            expected = "expected their keys, such as those in the column `key` of the data set"
            raise DataError(f"{self._path} has a text for none of the {self.missing} pairs: {expected}.")
        return {"express": {"given": self.used, "without": self.missing}}


class Spoken:
    """Expressive instructions that a model makes by batches; the file `notes` holds them meanwhile."""

    def __init__(
        self, out: Path, speak: Callable[[Sequence[EditPair]], list[Said]], *,
        made_by: dict[str, Any], batch_size: int,
    ):  # fmt: skip
        """`made_by` says what decides the texts: what was made in another way is not gone on with, but kept.
        How many pairs are spoken of at a time is no part of it."""
        self._speak, self._made_by, self._batch_size = speak, made_by, batch_size
        identity = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:12]
        self.notes = out.parent / f".{out.name}.express-{identity}.jsonl"
        self.made = self.reused = self.without = 0
        self._said: dict[tuple[str, str], Said] = {}
        data = self.notes.read_bytes() if self.notes.is_file() else b""
        for line in data.split(b"\n"):
            try:
                row = json.loads(line)
                name = row["key"], row.pop("of")
                self._said[name] = Said(**row)
            except MALFORMED:  # a line that was cut off or damaged is made again
                continue
        if not data.endswith(b"\n"):
            self._write("" if data else json.dumps(made_by))

    def __call__(self, rows: Rows, gate: Gate) -> Iterator[Sized]:
        """The sound pairs of `rows` with their texts; only what was not made before is made."""
        pairs = iter(gate(rows))
        while batch := list(itertools.islice(pairs, self._batch_size)):
            names = [(pair.key, _hash(pair)) for pair, _ in batch]
            missing = {name: pair for name, (pair, _) in zip(names, batch) if name not in self._said}
            if missing:
                made = dict(zip(missing, self._speak(list(missing.values()))))
                lines = (asdict(said) | {"of": name[1]} for name, said in made.items())
                self._write(*(json.dumps(line, ensure_ascii=False) for line in lines))
                self._said |= made
            self.made, self.reused = self.made + len(missing), self.reused + len(batch) - len(missing)
            for (pair, size), text in zip(batch, [self._said[name].expressive for name in names]):
                self.without += not text
                yield replace(pair, expressive=text), size

    @property
    def known(self) -> int:
        """How many texts are there."""
        return len(self._said)

    def facts(self) -> dict[str, Any]:
        """How they were made, how many, and of how many the model had nothing to say."""
        return {"express": self._made_by | {"rows": self.made + self.reused, "without": self.without}}

    def _write(self, *lines: str) -> None:
        self.notes.parent.mkdir(parents=True, exist_ok=True)
        with self.notes.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


Voice = Given | Spoken
"""Gives pairs their expressive instructions on the way into a data set."""


def open_voice(
    express: str | None, summarise: str | None, out: Path, *, batch_size: int = 8, device: str = "cpu"
) -> Voice | None:
    """What `express` names: None, file:JSON or llava:DIR. Raises ConfigError, DataError or WeightsError."""
    kind, _, where = (express or "").partition(":")
    if express is None or (kind == "file" and where):
        return Given(where) if where else None
    if kind != "llava" or not where:
        raise ConfigError(f"express={express!r} is not understood: expected llava:DIR or file:JSON.")
    name, shorten = summariser(summarise, device=device)
    made_by = {"llava": weights_identity(where), "summariser": weights_identity(name)}
    made_by |= {"wording": [QUESTION, SUMMARY_PROMPT, MAX_NEW_TOKENS, CLEANING]}
    return Spoken(out, Expresser(where, shorten, device=device), made_by=made_by, batch_size=batch_size)


def weights_identity(name: str) -> str:
    """What a model's words depend on: a hash of a folder's files; of a hub id or "none", the name."""
    if not Path(name).is_dir():
        return name
    files = [path for path in sorted(Path(name).iterdir()) if path.is_file() and path.suffix != ".md"]
    lines = (f"{path.name} {sampled_hash(path)}\n" for path in files if not path.name.startswith("."))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hash(pair: EditPair) -> str:
    """What an expressive instruction depends on."""
    return hashlib.sha256(pair.instruction.encode() + (pair.source or b"")).hexdigest()[:16]
