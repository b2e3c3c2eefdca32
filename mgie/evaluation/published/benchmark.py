"""Published protocols as benchmarks: of ready pictures, or of what a system makes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mgie.data.images import decode_plain
from mgie.evaluation.making import Job
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.published.data import files_of, identity
from mgie.evaluation.published.entries import Cell, Entry, Views
from mgie.evaluation.published.protocol import Protocol
from mgie.evaluation.published.rows import gathered, read, read_file, score_entry
from mgie.evaluation.report import PAGED, as_published, chosen_places, keep_pictures, write_published
from mgie.evaluation.run_folder import OUTPUTS
from mgie.evaluation.scoring import AbstractBenchmark, Look, Sample
from mgie.evaluation.subset import Subset


class PublishedBenchmark(AbstractBenchmark):
    """The items of a protocol's views. What is made is given as it was published, at its own size; of a
    session's turns each begins with the last one's output, as a file."""

    def __init__(
        self,
        name: str,
        protocol: Protocol,
        views: Views,
        eyes: Eyes,
        *,
        subset: Subset | None = None,
        unpinned: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ):
        """`name` is what the user calls the protocol. `subset` is what the views were narrowed to; `unpinned`
        tells what is not known to be as published; `facts` go to the result as they are."""
        self.suite, self.protocol, self.views, self.eyes = name, protocol, views, eyes
        self.unpinned, self.facts = list(unpinned), dict(facts or {}) | (subset.facts() if subset else {})
        self.identity = f"{protocol.identity} {subset.identity}" if subset else protocol.identity
        self.entries = {f"{view}/{each.key}": each for view, entries in views.items() for each in entries}
        self.samples = [
            Sample(name=name, unit=entry.cluster or entry.key, outputs=files_of(entry))
            for name, entry in self.entries.items()
        ]
        jobs: dict[str, Job] = {}
        for view, entries in views.items():
            options = protocol.views[view].image_guidance
            for entry in entries:
                jobs |= {job.output: job for job in _jobs(entry, options) if job.output not in jobs}
        self.jobs = list(jobs.values())

    def plan(self) -> dict[str, Any]:
        """The protocol, and a hash of all items: names, instructions, captions. What lies in the pictures is
        compared when they are edited and scored."""
        digest = hashlib.sha256()
        for name, entry in sorted(self.entries.items()):
            way = [(turn.key, turn.instruction, turn.output) for turn in entry.way]
            told = (name, entry.instruction, entry.caption, entry.source_caption, entry.output, way)
            digest.update(repr(told).encode(errors="backslashreplace"))
            for picture in entry.images:
                digest.update(hashlib.sha256(read_file(picture)).digest())
        return {"suite": self.suite, "protocol": self.protocol.sha256, "data": digest.hexdigest()}

    @property
    def measures(self) -> dict[str, Any]:
        """The protocol's metrics, and hashes of weights."""
        metrics = {name: asdict(metric) for name, metric in self.protocol.metrics.items()}
        return metrics | {"weights": self.eyes.hashes}

    def material(self, sample: Sample) -> list[bytes]:
        """Source, target, captions."""
        entry = self.entries[sample.name]
        own = (entry.source, entry.target, entry.entity, *entry.references)
        files = [read_file(each) for each in own if each is not None]
        return [
            *files,
            *(text.encode(errors="surrogatepass") for text in (entry.caption, entry.source_caption)),
        ]

    def score(self, sample: Sample, look: Look) -> dict[str, Any]:
        """Row -> scores and notes."""
        name = sample.outputs[0]
        return score_entry(
            self.protocol, self.entries[sample.name], decode_plain(look(name), name=name), self.eyes
        )

    def tell(
        self,
        folder: Path,
        told: Mapping[str, Any],
        found: Mapping[str, dict[str, Any]],
        made: Mapping[str, dict[str, Any]],
        look: Look,
    ) -> dict[str, Any]:
        """Numbers, items, page: model, protocol, rows, unpinned."""
        by_view = {(view, each.key): found[f"{view}/{each.key}"] for view, each in self._all()}
        scored = gathered(self.protocol, self.views, by_view, made=f"{OUTPUTS}/" if made else "")
        facts = {
            "model": told["model"], "suite": self.suite, "protocol": self.identity,
            "protocol_sha256": self.protocol.sha256, "unpinned": self.unpinned, "weights": self.eyes.hashes,
            "items_sha256": identity(self.views), **self.facts, "metrics": list(self.protocol.metrics),
            "rows": scored.facts, "printed": self.protocol.printed and self.protocol.printed.facts(),
        }  # fmt: skip
        facts |= {name: value for name, value in told.items() if name not in facts}
        outputs = [item for item in scored.items if item["row"] == "outputs"]
        for place in chosen_places([f"{item['view']}/{item['kind']}" for item in outputs], PAGED):
            item = outputs[place]
            entry = self.entries[f"{item['view']}/{item['key']}"]
            item["pictures"] = keep_pictures(folder, place, _pictures(entry, look))
        write_published(folder, facts, scored.items)
        return facts

    def table(self, facts: Mapping[str, Any]) -> str:
        """A row for each view and row of the result."""
        return as_published(dict(facts))

    def _all(self) -> list[tuple[str, Entry]]:
        return [(view, entry) for view, entries in self.views.items() for entry in entries]


def _jobs(entry: Entry, image_guidance: float | None) -> list[Job]:
    """An item's turns, the first one first."""
    options = {} if image_guidance is None else {"image_guidance_scale": image_guidance}
    controls = {"images": lambda: [read(each) for each in entry.images]} if entry.images else {}
    turns = [(turn.key, turn.instruction, turn.output) for turn in entry.way]
    before, jobs = "", []
    for key, instruction, output in [*turns, (entry.key, entry.instruction, entry.output)]:
        job = Job(
            output=output, key=key, unit=entry.cluster or entry.key, instruction=instruction,
            source=None if entry.source is None else _reading(entry.source), after=before,
            options=options, controls=controls,
        )  # fmt: skip
        jobs.append(job)
        before = output
    return jobs


def _pictures(entry: Entry, look: Look) -> dict[str, Image]:
    """What a page shows of an item."""
    pictures = {} if entry.source is None else {"source": read(entry.source)}
    pictures["output"] = decode_plain(look(entry.output), name=entry.output)
    return pictures | ({} if entry.target is None else {"target": read(entry.target)})


def _reading(stored: Path | Cell) -> Callable[[], bytes]:
    return lambda: read_file(stored)
