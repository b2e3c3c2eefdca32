"""Benchmarks of controls: tasks with what controls each, and a measure of their pictures."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mgie.data.images import decode, decode_plain
from mgie.errors import DataError
from mgie.evaluation.controlled.report import as_controlled, write_controlled
from mgie.evaluation.making import Job
from mgie.evaluation.run_folder import OUTPUTS
from mgie.evaluation.scoring import AbstractBenchmark, Look, Sample

Numbers = dict[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """One picture to be made under a control."""

    key: str
    """Unique, and the output's name without its ending."""
    instruction: str
    source: bytes | None = None
    """The photo that is edited. None: a new picture is painted."""
    target: bytes | None = None
    controls: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """What the editor's call is given of it, by the call's names; read when it is made."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """All that is measured against, as JSON holds it: it tells one data set from another."""
    mask: bytes | None = None
    """Where the edit belongs, white."""
    kind: str = ""
    cluster: str = ""
    """Tasks of one cluster are no independent samples."""

    @property
    def output(self) -> str:
        """Name of its picture."""
        return f"{self.key}.png"

    @property
    def material(self) -> list[bytes]:
        """All that its numbers are of, beside its picture."""
        facts = json.dumps(self.facts, sort_keys=True).encode()
        return [facts, self.source or b"", self.target or b"", self.mask or b""]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was found in one picture."""

    scores: Mapping[str, float]
    of: Mapping[str, int] = field(default_factory=dict)
    """Score -> of how many things in the picture it is the mean, where that is not one."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What else the summary needs."""
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Score -> what is to be known of it, or why there is none."""

    def facts(self) -> dict[str, Any]:
        """As JSON holds it; what is empty is left out."""
        named = {"of": dict(self.of), "told": dict(self.told), "notes": dict(self.notes)}
        return {"scores": dict(self.scores)} | {name: each for name, each in named.items() if each}


class AbstractMeasure(ABC):
    """How the pictures of a suite are measured."""

    @property
    @abstractmethod
    def depends_on(self) -> dict[str, Any]:
        """All that the numbers depend on beside the pictures: thresholds, hashes of weights."""

    @abstractmethod
    def measure(self, task: Task, picture: Image) -> Measured:
        """One picture, at its own size."""

    def summary(self, tasks: Sequence[Task], found: Sequence[Mapping[str, Any]]) -> Numbers:
        """The numbers of several pictures: means over things, where scores are means of such."""
        del tasks
        names = dict.fromkeys(name for each in found for name in each["scores"])
        return {name: _mean(name, found) for name in names}


class ControlledBenchmark(AbstractBenchmark):
    """The tasks of a suite. Beside the outputs, what doing nothing and what the target would give are
    measured, where there is a photo or a target."""

    def __init__(self, suite: str, tasks: Sequence[Task], measure: AbstractMeasure):
        """Raises DataError for tasks that share a name, or none at all."""
        self.suite, self.measure = suite, measure
        self.tasks = {task.key: task for task in tasks}
        if len(self.tasks) < len(tasks) or not tasks:
            raise DataError(
                f"the data of {suite} hold {len(tasks)} tasks under {len(self.tasks)} names: expected one at "
                "least, each under a name of its own."
            )
        self.jobs = [
            Job(
                output=task.output, key=task.key, unit=task.key, instruction=task.instruction,
                source=None if task.source is None else _reading(task.source), controls=task.controls,
            )
            for task in tasks
        ]  # fmt: skip
        self.samples = [Sample(name=task.key, unit=task.key, outputs=(task.output,)) for task in tasks]

    def plan(self) -> dict[str, Any]:
        """The suite, and a hash of all its tasks."""
        return {"suite": self.suite, "data": self.data}

    @property
    def data(self) -> str:
        """SHA-256 of all that the tasks hold."""
        digest = hashlib.sha256()
        for task in self.tasks.values():
            texts = (task.key, task.instruction, task.kind, task.cluster)
            for each in (*(text.encode(errors="surrogatepass") for text in texts), *task.material):
                digest.update(hashlib.sha256(each).digest())
        return digest.hexdigest()

    def check_outputs(self, folder: Path) -> None:
        """Raise DataError where a folder of ready pictures lacks one."""
        lacking = missing_outputs(folder, [task.output for task in self.tasks.values()])
        if lacking:
            raise DataError(
                f"{folder} lacks {len(lacking)} of {len(self.tasks)} outputs, such as "
                f"{', '.join(lacking[:3])}: nothing is scored until all are there."
            )

    @property
    def measures(self) -> dict[str, Any]:
        """What the measure depends on."""
        return self.measure.depends_on

    def material(self, sample: Sample) -> list[bytes]:
        """Photo, target, mask, and what should be where."""
        return self.tasks[sample.name].material

    def score(self, sample: Sample, look: Look) -> dict[str, Any]:
        """Row -> what was found."""
        task = self.tasks[sample.name]
        pictures = {"outputs": decode_plain(look(task.output), name=task.output)}
        for row, data in (("copy", task.source), ("oracle", task.target)):
            if data is not None:
                pictures[row] = decode(data, name=task.key)
        return {row: self.measure.measure(task, picture).facts() for row, picture in pictures.items()}

    def tell(
        self,
        folder: Path,
        told: Mapping[str, Any],
        found: Mapping[str, dict[str, Any]],
        made: Mapping[str, dict[str, Any]],
        look: Look,
    ) -> dict[str, Any]:
        """Table and page: model, suite, n, rows, by_kind."""
        tasks = list(self.tasks.values())
        rows = {
            row: self._summary([task for task in tasks if row in found[task.key]], found, row)
            for row in ("outputs", "copy", "oracle")
        }
        kinds = sorted({task.kind for task in tasks})
        by_kind = {
            kind: self._summary([task for task in tasks if task.kind == kind], found, "outputs")
            for kind in kinds
        }
        facts = {
            "model": told["model"], "suite": self.suite, "n": len(tasks),
            "rows": {row: each for row, each in rows.items() if each["n"]},
            "by_kind": by_kind if len(kinds) > 1 else {}, "measured_by": self.measures,
            "data_sha256": self.data,
        }  # fmt: skip
        facts |= {name: value for name, value in told.items() if name not in facts}
        lines = [self._line(task, found[task.key]["outputs"], made.get(task.output, {})) for task in tasks]
        write_controlled(folder, facts, lines, pictures=lambda key: self._pictures(self.tasks[key], look))
        return facts

    def table(self, facts: Mapping[str, Any]) -> str:
        """A row for the outputs, for doing nothing, for the target, and for each kind."""
        return as_controlled(facts)

    def _summary(
        self, tasks: Sequence[Task], found: Mapping[str, dict[str, Any]], row: str
    ) -> dict[str, Any]:
        those = [found[task.key][row] for task in tasks]
        return {"n": len(tasks)} | (self.measure.summary(tasks, those) if those else {})

    def _line(self, task: Task, found: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
        """What is told of one task in items.jsonl."""
        beginning = hashlib.sha256(task.source).hexdigest()[:16] if task.source else task.key
        return {
            "key": task.key, "kind": task.kind, "instruction": task.instruction,
            "said": made.get("said", ""), "cluster": task.cluster or beginning,
            "file": f"{OUTPUTS}/{task.output}" if made else task.output, **found,
        }  # fmt: skip

    def _pictures(self, task: Task, look: Look) -> dict[str, Image]:
        """What a page shows of a task."""
        pictures = {} if task.source is None else {"source": decode(task.source, name=task.key)}
        pictures["output"] = decode_plain(look(task.output), name=task.output)
        return pictures | ({} if task.target is None else {"target": decode(task.target, name=task.key)})


def missing_outputs(folder: Path, names: Sequence[str]) -> list[str]:
    """Which of these files a folder lacks, or has empty."""
    return sorted(
        name for name in names if not (folder / name).is_file() or not (folder / name).stat().st_size
    )


def _reading(data: bytes) -> Any:
    return lambda: data


def _mean(name: str, found: Sequence[Mapping[str, Any]]) -> float | None:
    """Over all things of all pictures that have the score."""
    parts = [
        (each["scores"][name], each.get("of", {}).get(name, 1)) for each in found if name in each["scores"]
    ]
    count = sum(weight for _, weight in parts)
    return math.fsum(value * weight for value, weight in parts) / count if count else None
