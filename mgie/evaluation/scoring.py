"""The second stage of an evaluation: numbers of each item, from the files of its pictures.

A benchmark says what is to be made, what its items are, how one is measured, and what all of them tell
together. The stages know no more of it.
"""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mgie.errors import DataError
from mgie.evaluation.making import Job
from mgie.evaluation.run_folder import OUTPUTS, SCORES, RunFolder, sha

Look = Callable[[str], bytes]
"""Name of an output -> its file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One item that is measured."""

    name: str
    """A path by which its numbers lie."""
    unit: str
    """That of the jobs whose outputs it needs."""
    outputs: tuple[str, ...]
    """Names of all files that it needs; the first is what is measured."""


class AbstractBenchmark(ABC):
    """What is edited, and how it is measured."""

    suite: str
    jobs: Sequence[Job]
    """All that is to be made; an earlier turn before a later one."""
    samples: Sequence[Sample]
    """All that is measured, in the order of the report."""

    @abstractmethod
    def plan(self) -> dict[str, Any]:
        """What must be the same for an evaluation to go on: the data, and what belongs to this benchmark."""

    @property
    @abstractmethod
    def measures(self) -> dict[str, Any]:
        """All that numbers depend on beside the pictures: metrics, weights."""

    @abstractmethod
    def material(self, sample: Sample) -> list[bytes]:
        """All that an item's numbers are of, beside its outputs: files and texts."""

    @abstractmethod
    def score(self, sample: Sample, look: Look) -> dict[str, Any]:
        """What is found of an item, as JSON holds it. Raises DataError for pictures that cannot be read."""

    @abstractmethod
    def tell(
        self,
        folder: Path,
        told: Mapping[str, Any],
        found: Mapping[str, dict[str, Any]],
        made: Mapping[str, dict[str, Any]],
        look: Look,
    ) -> dict[str, Any]:
        """Write the report into an empty folder; its facts.

        `told` are facts of the run, `found` is what `score` gave, by the name of the sample; `made` is what
        is known of each output, empty for ready pictures.
        """

    @abstractmethod
    def table(self, facts: Mapping[str, Any]) -> str:
        """The facts for a person."""


def looking_into(folder: RunFolder) -> Look:
    """Reads what was made in a run. Raises DataError where that is missing, or not as it was made."""

    def look(output: str) -> bytes:
        facts, path = folder.recorded(f"made/{output}"), folder.out / OUTPUTS / output
        data = path.read_bytes() if path.is_file() else b""
        if facts is None or sha(data) != facts["sha256"]:
            raise DataError(
                f"{path} is {'damaged' if data else 'missing'}: it has to be made before it is scored; run "
                "the same command without --stage."
            )
        return data

    return look


def looking_at(folder: Path) -> Look:
    """Reads ready pictures."""
    return lambda output: (folder / output).read_bytes()


def score_samples(
    folder: RunFolder,
    bench: AbstractBenchmark,
    samples: Sequence[Sample],
    look: Look,
    *,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Numbers of these samples, those that are there already as they are; name -> what was found, seconds."""
    found, by = {}, _identity(bench)
    bar = tqdm(samples, desc=f"score {bench.suite}", unit="item", disable=None if progress else True)
    for sample in bar:
        of = _digest(bench.material(sample), map(look, sample.outputs))
        known = folder.recorded(f"{SCORES}/{sample.name}")
        if known is None or (known["by"], known["of"]) != (by, of):
            started = time.monotonic()
            score = bench.score(sample, look)
            known = {"by": by, "of": of, "found": score, "seconds": round(time.monotonic() - started, 4)}
            folder.record(f"{SCORES}/{sample.name}", known)
        found[sample.name] = known
    return found


def scored(
    folder: RunFolder, bench: AbstractBenchmark, samples: Sequence[Sample], look: Look
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What other processes have scored of these samples, and the names of those that they have not."""
    found, missing = {}, []
    for sample in samples:
        known = scored_already(folder, bench, sample)
        try:
            whole = known and known["of"] == _digest(bench.material(sample), map(look, sample.outputs))
        except DataError:  # not made yet
            whole = False
        if known and whole:
            found[sample.name] = known
        else:
            missing.append(sample.name)
    return found, missing


def scored_already(folder: RunFolder, bench: AbstractBenchmark, sample: Sample) -> dict[str, Any] | None:
    """What was scored of a sample by these metrics and weights, of whatever pictures."""
    known = folder.recorded(f"{SCORES}/{sample.name}")
    return known if known and known["by"] == _identity(bench) else None


def _identity(bench: AbstractBenchmark) -> str:
    return sha(repr(sorted(bench.measures.items())).encode(errors="backslashreplace"))


def _digest(*parts: Iterable[bytes]) -> str:
    """Hash of all that numbers are of."""
    hashes = [hashlib.sha256(each).hexdigest() for part in parts for each in part]
    return sha("\n".join(hashes).encode())
