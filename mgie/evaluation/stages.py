"""An evaluation as three stages of one folder: generate, score, report. Each goes on where it was left."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mgie.errors import DataError
from mgie.evaluation.making import Editing, Job, Making, generate
from mgie.evaluation.run_folder import MADE, SCORES, InUse, RunFolder
from mgie.evaluation.scoring import (
    AbstractBenchmark,
    Look,
    Sample,
    looking_at,
    looking_into,
    score_samples,
    scored,
    scored_already,
)
from mgie.evaluation.shards import Shard, chunks_of
from mgie.lines import say

Stage = Literal["all", "generate", "score", "report"]
PATIENCE = 1.0
"""Seconds between two looks at what other processes have done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One evaluation: of what, made how, by whom, where."""

    folder: RunFolder
    bench: AbstractBenchmark
    making: Making
    plan: Mapping[str, Any]
    """What must be the same for it to go on, beside the benchmark's own."""
    told: Mapping[str, Any]
    """What the report says of it besides."""
    system: Callable[[], Editing] | None
    """What edits; None for ready pictures."""
    pictures: Path | None = None
    """Where ready pictures lie."""
    progress: bool = True


def carry_out(
    run: Run, shard: Shard, stage: Stage = "all", *, awaited: Sequence[Shard] | None = ()
) -> tuple[dict[str, Any], bool]:
    """The stages of a shard, and the report if with it all is there; the facts, and whether they are those of
    the report.

    `awaited` are shards of processes that work beside this one, whose end the report waits for; None leaves
    the report to one of those. Raises ConfigError where the folder holds another evaluation.
    """
    folder, bench = run.folder, run.bench
    look = looking_at(run.pictures) if run.pictures else looking_into(folder)
    chunks = chunks_of((job.unit for job in bench.jobs), run.making.batch_size)
    mine = [sample for sample in bench.samples if shard.owns(chunks[sample.unit])]
    with folder.writing(shard):
        free = () if stage in ("all", "generate") else ("device",)  # it may be scored elsewhere
        told = folder.begin({**run.plan, **bench.plan()}, run.told, free=free)
        facts: dict[str, Any] = {"suite": bench.suite, "shard": str(shard), "out": str(folder.out)}
        if run.progress:
            say(outlook(run, mine, [job for job in bench.jobs if shard.owns(chunks[job.unit])], stage))
        if stage in ("all", "generate") and run.system:
            facts["made"] = len(
                generate(folder, bench.jobs, chunks, run.making, run.system, shard, progress=run.progress)
            )
        if stage == "generate":
            return facts, False
        found = {}
        if stage in ("all", "score"):
            found = score_samples(folder, bench, mine, look, progress=run.progress)
            facts["scored"] = len(found)
        if stage == "score" or awaited is None:
            return facts, False

        # The report is made by whoever finds all there.
        for other in awaited:
            _wait_for(run, other, chunks)
        rest = [sample for sample in bench.samples if sample.name not in found]
        others, missing = scored(folder, bench, rest, look)
        if missing and (stage == "report" or shard.count == 1):
            raise DataError(
                f"{folder.out} lacks the numbers of {len(missing)} of {len(bench.samples)} items, such as "
                f"{missing[0]}: score them first, all shards of them."
            )
        if missing:
            return facts | {"missing": len(missing)}, False
        try:
            return _report(run, told, found | others, look), True
        except InUse:
            if shard.count == 1:
                raise
            return facts | {"missing": 0}, False  # another process has come to the same


def outlook(run: Run, samples: Sequence[Sample], jobs: Sequence[Job], stage: Stage) -> str:
    """What will happen, in one line. What is there is counted by its name; it is looked at when its turn
    comes."""
    counts = []
    if run.system and stage in ("all", "generate"):
        there = sum(run.folder.has_record(f"{MADE}/{job.output}") for job in jobs)
        counts.append(f"{there} of {len(jobs)} pictures are made")
    if stage in ("all", "score"):
        there = sum(run.folder.has_record(f"{SCORES}/{sample.name}") for sample in samples)
        counts.append(f"{there} of {len(samples)} items scored")
    if stage in ("all", "report"):
        counts.append(f"the report is {'written again' if run.folder.reported else 'to be written'}")
    return f"{run.bench.suite} in {run.folder.out}: {', '.join(counts)}."


def _report(
    run: Run, told: Mapping[str, Any], found: Mapping[str, dict[str, Any]], look: Look
) -> dict[str, Any]:
    made = {}
    for job in run.bench.jobs if run.system else ():
        facts = run.folder.recorded(f"{MADE}/{job.output}")
        assert facts, f"{job.output} was looked at"
        made[job.output] = facts
    seconds = sum(each["seconds"] for each in (*found.values(), *made.values()))
    told = {**told, "seconds": round(seconds, 1)}
    if made:
        told["seconds_per_edit"] = round(sum(each["seconds"] for each in made.values()) / len(made), 4)
    numbers = {name: each["found"] for name, each in found.items()}
    with run.folder.reporting() as place:
        return run.bench.tell(place, told, numbers, made, look)


def _wait_for(run: Run, other: Shard, chunks: Mapping[str, int]) -> None:
    """Until a process that works beside this one has scored all that is its own. One that fails ends this
    one, too: torchrun sees to it."""
    for sample in run.bench.samples:
        if other.owns(chunks[sample.unit]):
            while not scored_already(run.folder, run.bench, sample):
                time.sleep(PATIENCE)
