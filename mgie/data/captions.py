"""Where expressive instructions come from: nowhere, a file, or a model.

What a model made is kept line by line beside the data set that is being written, so a kill costs one batch
at most and the same command goes on where it was. The file goes away with the last row. What another model or
summariser made is kept in a file of its own, which nobody else touches.
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

from mgie.data.express import CLEANING, MAX_NEW_TOKENS, QUESTION, SUMMARY_PROMPT, Expresser, Said, summariser
from mgie.data.shards import Sized, sampled_hash
from mgie.data.sources.base import regular
from mgie.data.validation import Rejected
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
            rows = json.loads(regular(Path(path)).read_text(encoding="utf-8"))
            self._said: dict[str, tuple[str, str | None]] = {
                key: (value, None)
                if isinstance(value, str)
                else (str(value["expressive"]), value.get("instruction"))
                for key, value in rows.items()
            }
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): expected a JSON file.") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
        out: Path,
        speak: Callable[[Sequence[EditPair]], list[Said]],
        *,
        made_by: dict[str, Any],
        batch_size: int,
    ):
        """`made_by` says what decides the texts: what was made in another way is not gone on with, but kept.
        How many pairs are spoken of at a time is no part of it."""
        if batch_size < 1:
            raise ConfigError(f"express_batch={batch_size}: expected at least 1.")
        self._speak, self._made_by, self._batch_size = speak, made_by, batch_size
        identity = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:12]
        self._path = out.parent / f".{out.name}.express-{identity}.jsonl"
        self.made = self.reused = self.without = 0
        self._said: dict[tuple[str, str], Said] = {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._read()

    def before(self, items: Iterable[EditPair | Rejected]) -> Iterable[EditPair | Rejected]:
        """The rows."""
        return items

    def after(self, pairs: Iterable[Sized]) -> Iterator[Sized]:
        """The pairs with what was made of them, in their order; only what was not made before is made."""
        pairs = iter(pairs)
        while batch := list(itertools.islice(pairs, self._batch_size)):
            names = [(pair.key, _hash(pair)) for pair, _ in batch]
            missing = [place for place, name in enumerate(names) if name not in self._said]
            if missing:
                made = self._speak([batch[place][0] for place in missing])
                self._remember([names[place] for place in missing], made)
            self.made += len(missing)
            self.reused += len(batch) - len(missing)
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

    def _read(self) -> None:
        """Take up what an interrupted run left. A line that was cut off or damaged is made again."""
        data = self._path.read_bytes() if self._path.is_file() else b""
        for line in data.split(b"\n"):
            try:
                row = json.loads(line)
                name = row["key"], row.pop("of")
                self._said[name] = Said(**row)
            except (ValueError, KeyError, TypeError):
                continue
        if not data:
            self._path.write_text(json.dumps(self._made_by) + "\n", encoding="utf-8")
        elif not data.endswith(b"\n"):
            with self._path.open("ab") as file:
                file.write(b"\n")


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
    made_by = {
        "llava": weights_identity(where),
        "summariser": weights_identity(short.name),
        "wording": [QUESTION, SUMMARY_PROMPT, MAX_NEW_TOKENS, CLEANING],
    }
    return Spoken(out, speak, made_by=made_by, batch_size=batch_size)


def weights_identity(name: str) -> str:
    """What a model's words depend on: a hash of the files of a folder, wherever it lies; of a hub id or
    "none", the name."""
    if not Path(name).is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted(Path(name).iterdir()):
        if path.is_file() and path.suffix != ".md" and not path.name.startswith("."):
            digest.update(f"{path.name} {sampled_hash(path)}\n".encode())
    return digest.hexdigest()


def _hash(pair: EditPair) -> str:
    """What an expressive instruction depends on."""
    digest = hashlib.sha256(pair.instruction.encode())
    digest.update(pair.source or b"")
    return digest.hexdigest()[:16]
