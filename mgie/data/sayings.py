"""Where the expressive instructions of a data set come from: from nowhere, from a file, or from a model.

What a model made is kept line by line beside the data set that is being written, so a kill costs one batch
at most and the same command goes on where it was. The file goes away with the last row.
"""

import hashlib
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mgie.data.express import Expresser, Said, summariser
from mgie.data.rejects import Rejected
from mgie.data.shards import Sized
from mgie.errors import ConfigError, DataError
from mgie.types import EditPair


class AbstractVoice(ABC):
    """Gives pairs their expressive instructions on the way into a data set."""

    @abstractmethod
    def before(self, items: Iterable[EditPair | Rejected]) -> Iterable[EditPair | Rejected]:
        """Rows as their source gave them, on their way to the gate."""

    @abstractmethod
    def after(self, pairs: Iterable[Sized]) -> Iterable[Sized]:
        """Sound pairs, on their way into the files."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the data set's facts tell of it."""

    @abstractmethod
    def finish(self) -> None:
        """The data set has everything."""


class Silent(AbstractVoice):
    """Leaves pairs as they are."""

    def before(self, items: Iterable[EditPair | Rejected]) -> Iterable[EditPair | Rejected]:
        """The rows."""
        return items

    def after(self, pairs: Iterable[Sized]) -> Iterable[Sized]:
        """The pairs."""
        return pairs

    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def finish(self) -> None:
        """Nothing to be done."""


class Given(AbstractVoice):
    """Expressive instructions from a file: {key: text} or {key: {"instruction", "expressive"}}."""

    def __init__(self, path: str | Path):
        """Raises DataError if the file holds anything else."""
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))
            self._said: dict[str, tuple[str, str | None]] = {
                key: (value, None)
                if isinstance(value, str)
                else (str(value["expressive"]), value.get("instruction"))
                for key, value in rows.items()
            }
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): expected a JSON file.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path} is not understood: expected {{key: {{"instruction", "expressive"}}}} as JSON.'
            ) from error
        self._path = path
        self.used = self.missing = 0

    def before(self, items: Iterable[EditPair | Rejected]) -> Iterator[EditPair | Rejected]:
        """The rows with their texts. A pair that asks for something else than the file says is set aside."""
        for item in items:
            text, instruction = self._said.get(item.key, (None, None))
            if isinstance(item, Rejected):
                yield item
            elif text is None:
                self.missing += 1
                yield item
            elif instruction not in (None, item.instruction):
                detail = f"{item.key} asks {item.instruction!r}, but its text was made for {instruction!r}."
                yield Rejected(key=item.key, reason="other instruction", detail=detail)
            else:
                self.used += 1
                yield replace(item, expressive=text)

    def after(self, pairs: Iterable[Sized]) -> Iterable[Sized]:
        """The pairs."""
        return pairs

    def facts(self) -> dict[str, Any]:
        """How many rows found a text. Raises DataError where none did."""
        if not self.used:
            raise DataError(
                f"{self._path} has a text for none of the {self.missing} pairs: expected their keys, "
                "such as those "
                "in the column `key` of the data set."
            )
        return {"express": {"given": self.used, "without": self.missing}}

    def finish(self) -> None:
        """Nothing to be done."""


class Spoken(AbstractVoice):
    """Expressive instructions that a model makes, batch by batch, and that a file remembers."""

    def __init__(
        self,
        path: Path,
        speak: Callable[[Sequence[EditPair]], list[Said]],
        *,
        made_by: dict[str, Any],
        batch_size: int,
    ):
        """`made_by` says how they are made: what was made in another way is not gone on with."""
        if batch_size < 1:
            raise ConfigError(f"express_batch={batch_size}: expected at least 1.")
        self._path, self._speak, self._made_by, self._batch_size = path, speak, made_by, batch_size
        self.made = self.reused = self.without = 0
        self._said: dict[tuple[str, str], Said] = {}
        if not self._read():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made_by) + "\n", encoding="utf-8")

    def before(self, items: Iterable[EditPair | Rejected]) -> Iterable[EditPair | Rejected]:
        """The rows."""
        return items

    def after(self, pairs: Iterable[Sized]) -> Iterator[Sized]:
        """The pairs with what was made of them, in their order. Batches are the same whatever was made
        before."""
        pairs = iter(pairs)
        while batch := list(itertools.islice(pairs, self._batch_size)):
            names = [(pair.key, _hash(pair)) for pair, _ in batch]
            if all(name in self._said for name in names):
                self.reused += len(batch)
            else:
                self._remember(names, self._speak([pair for pair, _ in batch]))
                self.made += len(batch)
            for name, (pair, size) in zip(names, batch):
                self.without += not self._said[name].expressive
                yield replace(pair, expressive=self._said[name].expressive), size

    def facts(self) -> dict[str, Any]:
        """How they were made, how many, and of how many the model had nothing to say."""
        return {"express": self._made_by | {"rows": self.made + self.reused, "without": self.without}}

    def finish(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _remember(self, names: list[tuple[str, str]], made: list[Said]) -> None:
        rows = [asdict(said) | {"of": name[1]} for name, said in zip(names, made)]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self._said |= dict(zip(names, made))

    def _read(self) -> bool:
        """Take up what an interrupted run left; False where there is nothing that fits."""
        if not self._path.is_file():
            return False
        *whole, rest = self._path.read_bytes().split(b"\n")  # the rest is empty, or a line that was cut off
        try:
            rows = [json.loads(line) for line in whole]
            if not rows or rows[0] != json.loads(json.dumps(self._made_by)):
                return False
            self._said = {(row["key"], row.pop("of")): Said(**row) for row in rows[1:]}
        except (ValueError, KeyError, TypeError):
            return False
        if rest:
            self._path.write_bytes(b"\n".join([*whole, b""]))
        return True


def open_voice(
    express: str | None, summarise: str | None, out: Path, *, batch_size: int = 8, device: str = "cpu"
) -> AbstractVoice:
    """What `express` names: None, file:JSON or llava:DIR. Raises ConfigError, DataError or WeightsError."""
    kind, _, where = (express or "").partition(":")
    if express is None:
        return Silent()
    if kind not in ("file", "llava") or not where:
        raise ConfigError(f"express={express!r} is not understood: expected llava:DIR or file:JSON.")
    if kind == "file":
        return Given(where)
    short = summariser(summarise, device=device)
    speak = Expresser(where, short, device=device)
    made_by = {"by": express, "summariser": short.name, "batch": batch_size}
    return Spoken(out.parent / f".{out.name}.express.jsonl", speak, made_by=made_by, batch_size=batch_size)


def _hash(pair: EditPair) -> str:
    """What an expressive instruction depends on."""
    digest = hashlib.sha256(pair.instruction.encode())
    digest.update(pair.source or b"")
    return digest.hexdigest()[:16]
