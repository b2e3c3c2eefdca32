"""A system's pictures of a published benchmark -> its numbers, and those of doing nothing.

Every result has three rows. `outputs` are the system's. `copy` is the picture before the edit, given as an
output: it scores well by L1, CLIP-I and DINO, and what does not beat it has done nothing. `oracle` is the
target itself, where there is one.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mgie.data.images import decode_plain
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.evaluation.measures.scores import Case, Eyes, Score, means, score
from mgie.evaluation.published.data import kinds
from mgie.evaluation.published.entries import Cell, Entry, Views
from mgie.evaluation.published.protocol import TEXTS, Protocol

ROWS = ("outputs", "copy", "oracle")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Numbers of a benchmark."""

    facts: dict[str, dict[str, Any]]
    """Row -> view -> n, the mean of each metric, and what of it was not measured."""
    items: list[dict[str, Any]]
    """Of each item and row: key, view, row, kind, instruction, cluster, scores, notes; of outputs also file,
    pictures."""


def check_eyes(protocol: Protocol, eyes: Eyes, *, unpinned: bool = False) -> list[str]:
    """Which of the protocol's models are not known to be those that it was published with. Raises ConfigError
    for one that was not given, WeightsError for other weights than the protocol's, unless `unpinned`."""
    open_questions = []
    for name, weights in protocol.weights.items():
        if name not in eyes.hashes:
            raise ConfigError(
                f"The protocol {protocol.name} measures with {name}: give --{name} and a local folder or "
                f"file, such as a download of {weights.repo}."
            )
        given = eyes.hashes[name]
        wrong = [file for file, sha in weights.sha256.items() if given.get(file) != sha]
        if wrong and not unpinned:
            raise WeightsError(
                f"--{name} has another {wrong[0]} than {protocol.identity} pins ({weights.repo}): give "
                "that one, or say --unpinned, and the numbers will say that they are of other weights."
            )
        if wrong or not weights.sha256:
            open_questions.append(name)
    for metric in protocol.metrics.values():
        if metric.net and eyes.lpips and eyes.lpips.net != metric.net:
            raise ConfigError(
                f"--lpips is by {eyes.lpips.net} and {protocol.identity} measures by {metric.net}: give "
                f"--lpips {metric.net}:FILE."
            )
        model = eyes.dino if metric.measure == "dino" else eyes.clip
        side = getattr(metric.prep, "crop", None) or getattr(metric.prep, "squash", None)
        if side and model and side != model.prep.crop:
            raise WeightsError(
                f"{model.folder} sees {model.prep.crop} pixels and {protocol.identity} shows {side}: give a "
                f"download of {protocol.weights['dino' if metric.measure == 'dino' else 'clip'].repo}."
            )
    return open_questions


def check_texts(protocol: Protocol, views: Views, eyes: Eyes) -> None:
    """Raise DataError for a caption that is longer than CLIP reads, where the protocol lets none be cut."""
    for metric in protocol.metrics.values():
        parts = [part for part in metric.of if part in TEXTS and metric.overlong == "error"]
        for entry in (entry for entries in views.values() for entry in entries if eyes.clip):
            for part in parts:
                assert eyes.clip
                eyes.clip.words(getattr(entry, part), metric.overlong)


def score_all(
    protocol: Protocol,
    views: Views,
    outputs: Callable[[str, Entry], Path],
    eyes: Eyes,
) -> Scored:
    """The numbers of all items of all views at once; `outputs` says where an output lies. Raises DataError
    for a picture that cannot be read."""
    found = {
        (view, entry.key): score_entry(protocol, entry, read(outputs(view, entry)), eyes)
        for view, entries in views.items()
        for entry in entries
    }
    return gathered(protocol, views, found)


def score_entry(protocol: Protocol, entry: Entry, output: Image, eyes: Eyes) -> dict[str, Any]:
    """Row -> scores and notes of one item. Raises DataError for a picture that cannot be read."""
    return {
        row: told({name: score(metric, case, eyes) for name, metric in protocol.metrics.items()})
        for row, case in _cases(entry, output, eyes)
    }


def gathered(
    protocol: Protocol, views: Views, found: Mapping[tuple[str, str], dict[str, Any]], made: str = ""
) -> Scored:
    """What the items tell together; `found` is what `score_entry` gave, by view and key, and `made` the
    folder of what was made here."""
    facts: dict[str, dict[str, Any]] = {row: {} for row in ROWS}
    items: list[dict[str, Any]] = []
    for view, entries in views.items():
        for row in ROWS:
            whole = [
                (entry, found[view, entry.key][row]) for entry in entries if row in found[view, entry.key]
            ]
            for entry, scored in whole:
                about = {
                    "key": entry.key, "view": view, "row": row, "kind": entry.kind,
                    "instruction": entry.instruction, "cluster": _cluster(entry),
                }  # fmt: skip
                if row == "outputs":
                    file = f"{made}{entry.output}"
                    about |= {"file": file, "pictures": {}}
                items.append(about | scored)
            if whole:
                values = [scores_of(scored, protocol.metrics) for _, scored in whole]
                facts[row][view] = {"n": len(values)} | means(protocol.metrics, values, kinds(entries))
    return Scored(facts={row: each for row, each in facts.items() if each}, items=items)


def _cluster(entry: Entry) -> str:
    """What an item belongs to: its session, or the picture that it begins with, which others may share."""
    if entry.source is None or entry.cluster not in ("", entry.key):
        return entry.cluster or entry.key
    return hashlib.sha256(read_file(entry.source)).hexdigest()[:16]


def told(found: dict[str, Score]) -> dict[str, Any]:
    """Scores as they are written: those that there are, and what was noted."""
    notes = {name: list(each.notes) for name, each in found.items() if each.notes}
    scores = {name: each.value for name, each in found.items() if each.value is not None}
    return {"scores": scores} | ({"notes": notes} if notes else {})


def scores_of(found: Mapping[str, Any], metrics: Iterable[str]) -> dict[str, Score]:
    """What `told` wrote, of all metrics."""
    scores, notes = found["scores"], found.get("notes", {})
    return {name: Score(scores.get(name), tuple(notes.get(name, ()))) for name in metrics}


def read(stored: Path | Cell) -> Image:
    """A picture as published protocols read it. Raises DataError."""
    return decode_plain(read_file(stored), name=str(stored))


def read_file(stored: Path | Cell) -> bytes:
    """A picture's file. Raises DataError."""
    try:
        return stored.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{stored} is missing: download the benchmark's data again.") from error


def _cases(entry: Entry, output: Image, eyes: Eyes) -> Iterator[tuple[str, Case]]:
    """Each row's output, and what it is measured against."""
    source, target, entity = (
        None if each is None else read(each) for each in (entry.source, entry.target, entry.entity)
    )
    mask = None if entry.mask is None else read(entry.mask).convert("L")
    whole = Case(
        output=output, source=source, target=target, caption=entry.caption,
        source_caption=entry.source_caption, mask=mask, entity=entity,
        references=tuple(read(each) for each in entry.references),
    )  # fmt: skip
    for row, picture in (("outputs", output), ("copy", source), ("oracle", target)):
        if picture is None:
            continue
        case = replace(whole, output=picture)
        if eyes.cutter and entry.thing:
            subject, found = eyes.cutter(picture, entry.thing)
            case = replace(case, subject=subject, found=found)
        yield row, case
