"""Benchmarks of pairs: each output against its target, judged where somebody can."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from mgie.data.images import decode, decode_plain, fitted_size, resize
from mgie.errors import ConfigError, DataError
from mgie.evaluation.finished import CONTROL_ROWS
from mgie.evaluation.making import Job
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.scores import Case, Score, means, score
from mgie.evaluation.measures.sets import CMMD, set_distance, set_feature
from mgie.evaluation.published.protocol import Metric
from mgie.evaluation.published.rows import scores_of, told
from mgie.evaluation.report import FEW, Item, as_table, write_report
from mgie.evaluation.run_folder import OUTPUTS
from mgie.evaluation.scoring import AbstractBenchmark, Look, Sample
from mgie.evaluation.suites import Request, Suite, caption_of
from mgie.types import EditPair

OWN, CONTROL = "own", "control"
"""Folders of outputs: by the pairs' own instructions, and by those of others."""


class PairBenchmark(AbstractBenchmark):
    """The pairs of a suite. Outputs are measured at their target's own size."""

    def __init__(
        self,
        suite: Suite,
        request: Request,
        measures: Mapping[str, Metric],
        eyes: Eyes,
        *,
        control: bool = True,
        sets: bool = False,
    ):
        """`control` has all pictures edited a second time, each by another pair's instruction, where a judge
        can tell; `sets` has all outputs together compared with all targets (CMMD). Raises DataError where
        there is no pair, ConfigError for a control of pairs that all ask for the same."""
        self.suite, self.judge, self.request = suite.name, suite.judge, request
        self.metrics, self.eyes, self.sets = dict(measures), eyes, sets
        self.pairs = suite.pairs(request)
        if not self.pairs:
            raise DataError(f"The suite {suite.name} found no pair to measure on: choose another --data.")
        self.others = neighbours(self.pairs) if control and suite.judge else []
        words = [pair.instruction for pair in self.pairs]
        own = [self._job(OWN, at, words[at]) for at in range(len(self.pairs))]
        misled = [self._job(CONTROL, at, words[other]) for at, other in enumerate(self.others)]
        self.jobs = [*own, *misled]
        self.samples = [
            Sample(name=f"{at:06d}", unit=str(at), outputs=tuple(job.output for job in jobs))
            for at, jobs in enumerate(zip(own, misled) if misled else zip(own))
        ]

    def _job(self, folder: str, at: int, instruction: str) -> Job:
        pair, source = self.pairs[at], self.pairs[at].source
        return Job(
            output=f"{folder}/{at:06d}.png", key=pair.key, unit=str(at), instruction=instruction,
            source=None if source is None else lambda: source,
        )  # fmt: skip

    def plan(self) -> dict[str, Any]:
        """The suite, and a hash of all its pairs."""
        return {
            "suite": self.suite, "count": self.request.count, "seed": self.request.seed,
            "size": self.request.size, "control": bool(self.others), "data": self.data,
        }  # fmt: skip

    @cached_property
    def data(self) -> str:
        """SHA-256 of all that the pairs hold."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            texts = (pair.key, pair.instruction, pair.expressive, caption_of(pair), pair.kind)
            for each in (
                *(text.encode(errors="surrogatepass") for text in texts),
                pair.source or b"",
                pair.target,
            ):
                digest.update(hashlib.sha256(each).digest())
        return digest.hexdigest()

    @property
    def measures(self) -> dict[str, Any]:
        """Metrics, and hashes of weights."""
        told = {name: asdict(metric) for name, metric in self.metrics.items()} | {"weights": self.eyes.hashes}
        return told | ({CMMD: True} if self.sets else {})

    def material(self, sample: Sample) -> list[bytes]:
        """Source, target, caption."""
        pair = self.pairs[int(sample.name)]
        return [pair.source or b"", pair.target, caption_of(pair).encode(errors="surrogatepass")]

    def score(self, sample: Sample, look: Look) -> dict[str, Any]:
        """Rows as of a published protocol; and the verdicts on the output and on that of the control."""
        pair = self.pairs[int(sample.name)]
        source, target = self._source(pair), decode(pair.target, name=pair.key)
        outputs = [decode_plain(look(name), name=name) for name in sample.outputs]
        whole = Case(output=outputs[0], source=source, target=target, caption=caption_of(pair))
        cases = {"outputs": whole, "oracle": replace(whole, output=target)}
        if source:
            cases["copy"] = replace(whole, output=source)
        found: dict[str, Any] = {
            row: told({name: score(metric, case, self.eyes) for name, metric in self.metrics.items()})
            for row, case in cases.items()
        }
        if self.sets:
            found[CMMD] = {row: set_feature(case.output, self.eyes) for row, case in cases.items()}
        found.setdefault("copy", told({name: Score(None, ("no source",)) for name in self.metrics}))
        if self.judge:
            size = self._as_large(source or target).size
            verdict = self.judge(pair, resize(outputs[0], size))
            found |= {"right": bool(verdict.right), "why": verdict.why}
            for row in CONTROL_ROWS:  # where nothing was there, nothing can be given back
                given = resize(cases[row].output, size) if row in cases else None
                found[row]["right"] = given is not None and bool(self.judge(pair, given).right)
            if len(outputs) > 1:
                found["control_right"] = bool(self.judge(pair, outputs[1]).right)
        return found

    def tell(
        self,
        folder: Path,
        told: Mapping[str, Any],
        found: Mapping[str, dict[str, Any]],
        made: Mapping[str, dict[str, Any]],
        look: Look,
    ) -> dict[str, Any]:
        """Table, page and sheet; n, right, l1_ratio, control_right, by_kind, baselines and means."""
        items = [self._item(sample, found[sample.name], made) for sample in self.samples]
        kinds = sorted({item.kind for item in items})
        by_kind = {kind: self._summary([item for item in items if item.kind == kind]) for kind in kinds}
        rows = {
            row: self._control([found[sample.name][row] for sample in self.samples]) for row in CONTROL_ROWS
        }
        head = {
            "model": told["model"],
            "suite": self.suite,
            "seed": self.request.seed,
            "size": self.request.size,
        }
        facts = head | self._summary(items) | {"by_kind": by_kind, "baselines": rows}
        for row, distance in self._distances(found).items():
            (facts if row == "outputs" else rows[row])[CMMD] = distance
        facts |= {"weights": self.eyes.hashes, "data_sha256": self.data}
        facts |= {name: value for name, value in told.items() if name not in facts}
        if len(items) < FEW:
            facts["warning"] = f"n is {len(items)}: figures from fewer than {FEW} pairs mean little."
        write_report(folder, facts, items, pictures=lambda item: self._shown(item, look))
        return facts

    def table(self, facts: Mapping[str, Any]) -> str:
        """A row for each kind of edit."""
        return as_table(dict(facts))

    def _item(self, sample: Sample, found: Mapping[str, Any], made: Mapping[str, dict[str, Any]]) -> Item:
        at = int(sample.name)
        pair, known = self.pairs[at], made[sample.outputs[0]]
        control = {}
        if self.others:
            words = self.pairs[self.others[at]].instruction
            control = {"control": words, "control_right": found["control_right"]}
        return Item(
            key=pair.key, kind=pair.kind, instruction=pair.instruction, expected=pair.expressive,
            said=known["said"], forced=known["forced"], caption=caption_of(pair),
            scores=found["outputs"]["scores"], notes=found["outputs"].get("notes", {}),
            right=found.get("right"), why=found.get("why", ""), **control,
            file=f"{OUTPUTS}/{sample.outputs[0]}", 
            cluster=pair.session or _cluster(pair),
        )  # fmt: skip

    def _shown(self, item: Item, look: Look) -> Item:
        """The item with its pictures, at the size of the editing."""
        at = int(Path(item.file).stem)
        pair = self.pairs[at]
        source, target = self._source(pair), decode(pair.target, name=pair.key)
        size = self._as_large(source or target).size
        output = decode_plain(look(item.file.removeprefix(f"{OUTPUTS}/")), name=item.file)
        return replace(
            item,
            source=source and resize(source, size),
            output=resize(output, size),
            target=resize(target, size),
        )

    def _source(self, pair: EditPair) -> Image.Image | None:
        return None if pair.source is None else decode(pair.source, name=pair.key)

    def _as_large(self, picture: Image.Image) -> Image.Image:
        """The whole picture as it is given to the model."""
        return resize(picture, fitted_size(picture.size, side=self.request.size))

    def _distances(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
        """Row -> CMMD of all its pictures to all targets."""
        rows = ("outputs", *CONTROL_ROWS) if self.sets else ()
        told = [found[sample.name][CMMD] for sample in self.samples] if self.sets else []
        whole = {row: [each[row] for each in told if row in each] for row in rows}
        return {row: set_distance(features, whole["oracle"]) for row, features in whole.items()}

    def _control(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The figures of doing nothing, or of the target."""
        facts = means(self.metrics, [scores_of(each, self.metrics) for each in found], {})
        judged = [each["right"] for each in found if "right" in each]
        if judged:
            facts["right"] = sum(judged) / len(judged)
        if facts.get("copy_l1"):
            facts["l1_ratio"] = facts["l1"] / facts["copy_l1"]
        return facts

    def _summary(self, items: Sequence[Item]) -> dict[str, Any]:
        """The figures of some items: their number, shares, sums' ratio and means."""
        facts: dict[str, Any] = {"n": len(items)}
        for share in ("right", "control_right"):
            verdicts = [getattr(item, share) for item in items if getattr(item, share) is not None]
            if verdicts:
                facts[share] = sum(verdicts) / len(verdicts)
        edits = [item.scores for item in items if "copy_l1" in item.scores]
        copied = sum(scores["copy_l1"] for scores in edits)
        facts["l1_ratio"] = sum(scores["l1"] for scores in edits) / copied if copied else None
        expected = [item for item in items if item.expected]
        if expected:
            facts["said_exactly"] = sum(item.said.strip() == item.expected for item in expected) / len(
                expected
            )
        facts["forced"] = sum(item.forced for item in items) / len(items)
        scored = [
            {name: Score(item.scores.get(name), tuple(item.notes.get(name, ()))) for name in self.metrics}
            for item in items
        ]
        return facts | means(self.metrics, scored, {})


def neighbours(pairs: Sequence[EditPair]) -> list[int]:
    """For each pair, the place of the next one (the first follows the last) that asks for a different edit.

    Given that one's instruction, a model that listens does not make the pair's own target.
    """
    edits = [pair.meta.get("edit", pair.instruction) for pair in pairs]
    if len(set(edits)) < 2:
        raise ConfigError(
            f"All {len(pairs)} pairs ask for the same edit, so none can be given another one's words; "
            "the control needs pairs of two edits or more, raise their number."
        )
    others = []
    for index, edit in enumerate(edits):
        other = (index + 1) % len(edits)
        while edits[other] == edit:
            other = (other + 1) % len(edits)
        others.append(other)
    return others


def _cluster(pair: EditPair) -> str:
    """Pairs that begin with the same picture belong together; one without stands alone."""
    return pair.key if pair.source is None else hashlib.sha256(pair.source).hexdigest()[:16]
