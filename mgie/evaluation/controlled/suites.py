"""Suites of controls by name: what lies in their folders, what they are measured by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mgie.errors import ConfigError
from mgie.evaluation.controlled.benchmark import ControlledBenchmark
from mgie.evaluation.controlled.counting import Counts, read_counting
from mgie.evaluation.controlled.found import Found
from mgie.evaluation.controlled.layout_data import read_coco_mig, read_positions
from mgie.evaluation.controlled.layout_scores import ColoursInPlaces, Positions
from mgie.evaluation.controlled.regions import Locality, read_regions
from mgie.evaluation.controlled.subjects import DetectAndCompare, Shown, read_subjects


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a user asks of a suite of controls."""

    suite: str
    data: Path
    count: int
    """How many tasks at most, where the suite may be cut."""
    folders: dict[str, str | Path | None]
    """Finders' folders by option."""
    dino: Any = None
    """What embeds; None: not given."""
    device: torch.device
    scored: bool = True
    """Whether anything is measured now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlledSuite:
    """One suite of controls."""

    about: str
    needs: tuple[str, ...]
    """Options of the models that it measures by."""
    open: Callable[[Asked], ControlledBenchmark]
    """Its benchmark."""


def open_controlled(asked: Asked) -> ControlledBenchmark:
    """The benchmark of a suite of controls. Raises ConfigError, DataError, WeightsError."""
    suite = CONTROLLED[asked.suite]
    if asked.dino is not None and "dino" not in suite.needs:
        raise ConfigError(f"dino has no place here: {asked.suite} measures without one; leave it out.")
    if asked.scored and asked.dino is None and "dino" in suite.needs:
        raise ConfigError(f"{asked.suite} measures by DINO: give --dino DIR, a local folder.")
    return suite.open(asked)


def _finders(asked: Asked) -> Found:
    needs = CONTROLLED[asked.suite].needs
    return Found.open(asked.suite, needs, asked.folders, asked.device, now=asked.scored)


def _coco_mig(asked: Asked) -> ControlledBenchmark:
    tasks = read_coco_mig(asked.data)[: asked.count]
    return ControlledBenchmark(asked.suite, tasks, ColoursInPlaces(finders=_finders(asked)))


def _coco_position(asked: Asked) -> ControlledBenchmark:
    tasks = read_positions(asked.data, asked.count)
    return ControlledBenchmark(asked.suite, tasks, Positions(finders=_finders(asked)))


def _counting(asked: Asked) -> ControlledBenchmark:
    tasks = read_counting(asked.data, asked.count)
    return ControlledBenchmark(asked.suite, tasks, Counts(finders=_finders(asked)))


def _regions(asked: Asked) -> ControlledBenchmark:
    _finders(asked)  # which are refused
    return ControlledBenchmark(asked.suite, read_regions(asked.data, asked.count), Locality())


def _subjects(asked: Asked) -> ControlledBenchmark:
    from mgie.personalization.subjects import load_subjects

    shown = [
        Shown(name=each.name, phrase=each.phrase, photos=tuple(photo.image for photo in each.photos))
        for each in load_subjects(asked.data, masks=False)
    ]
    tasks = read_subjects(asked.data, asked.count, shown)
    measure = DetectAndCompare(finders=_finders(asked), dino=asked.dino, subjects=shown)
    return ControlledBenchmark(asked.suite, tasks, measure)


CONTROLLED: dict[str, ControlledSuite] = {
    "coco_mig": ControlledSuite(
        about="COCO-MIG: things in boxes, each of its colour",
        needs=("detector", "segmenter"),
        open=_coco_mig,
    ),
    "coco_position": ControlledSuite(
        about="COCO-position: things in boxes",
        needs=("detector",),
        open=_coco_position,
    ),
    "counting": ControlledSuite(
        about="as many things as the words say (DrawBench)", needs=("detector",), open=_counting
    ),
    "regions": ControlledSuite(
        about="edits inside masks: what is outside, the seam, the inside", needs=(), open=_regions
    ),
    "subjects": ControlledSuite(
        about="Detect-and-Compare: several subjects, each once and like itself",
        needs=("detector", "dino"),
        open=_subjects,
    ),
}
"""Name -> suite."""
