"""Layouts measured: COCO-MIG's rates, and where things are by the average precision of COCO."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mgie.data.grounding import SIDE
from mgie.data.images import resize
from mgie.evaluation.controlled.benchmark import AbstractMeasure, Measured, Numbers, Task
from mgie.evaluation.controlled.coco_mig import LEAST_OVERLAP, InstanceScore, Wanted, score_picture
from mgie.evaluation.controlled.found import Found
from mgie.evaluation.controlled.layout_data import instances_of
from mgie.models.finders import intersection_over_union, sure_ones
from mgie.types import Box

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Intersections over union that AP is the mean over (COCO)."""
RECALLS = np.linspace(0, 1, 101)
"""Where precision is read."""


@dataclass(frozen=True, kw_only=True)
class ColoursInPlaces(AbstractMeasure):
    """COCO-MIG's: is each thing in its box, and of its colour? As published, and with each thing that was
    found given to one instance at most ("strict")."""

    finders: Found

    @property
    def depends_on(self) -> dict[str, Any]:
        """The finders' weights."""
        return {"finders": self.finders.hashes}

    def measure(self, task: Task, picture: Image.Image) -> Measured:
        """Rates of the instances, and whether all are right."""
        wanted = [Wanted.of(phrase, box) for phrase, box in instances_of(task)]
        detect, segment = self.finders.once(self.finders.detector), self.finders.segmenter
        as_published, strict = (
            score_picture(picture, wanted, detect=detect, segment=segment, strict=one_to_one)
            for one_to_one in (False, True)
        )
        scores = _rates(as_published) | {
            f"strict_{name}": value for name, value in _rates(strict).items() if name != "mean_iou"
        }
        return Measured(
            scores=scores,
            of={name: len(wanted) for name in scores if not name.endswith("image_success_rate")},
            told={"instances": [[each.in_place, each.in_colour, each.overlap] for each in as_published]},
        )


def _rates(scores: Sequence[InstanceScore]) -> dict[str, float]:
    count = len(scores)
    return {
        "instance_success_rate": sum(each.right for each in scores) / count,
        "image_success_rate": float(all(each.right for each in scores)),
        "mean_iou": sum(each.overlap for each in scores) / count,
    }


@dataclass(frozen=True, kw_only=True)
class Positions(AbstractMeasure):
    """COCO-position's: is each thing in its box, whatever its colour, and what is AP?"""

    finders: Found

    @property
    def depends_on(self) -> dict[str, Any]:
        """The detector's weights."""
        return {"finders": self.finders.hashes}

    def measure(self, task: Task, picture: Image.Image) -> Measured:
        """Each instance's best overlap, and all that was found."""
        seen, instances = resize(picture, (SIDE, SIDE)), instances_of(task)
        found = {
            phrase: sure_ones(self.finders.detector(seen, _thing(phrase)))
            for phrase in dict.fromkeys(phrase for phrase, _ in instances)
        }
        overlaps = [
            max((intersection_over_union(each.box, box) for each in found[phrase]), default=0.0)
            for phrase, box in instances
        ]
        right = [overlap >= LEAST_OVERLAP for overlap in overlaps]
        scores = {
            "in_place": sum(right) / len(right), "image_success_rate": float(all(right)),
            "mean_iou": sum(overlaps) / len(overlaps),
        }  # fmt: skip
        detections = {
            _thing(phrase): [[each.score, *each.box] for each in several] for phrase, several in found.items()
        }
        count = len(instances)
        return Measured(
            scores=scores, of={"in_place": count, "mean_iou": count}, told={"detections": detections}
        )

    def summary(self, tasks: Sequence[Task], found: Sequence[Mapping[str, Any]]) -> Numbers:
        """Rates, and AP, AP50 and AP75."""
        wanted = [[(_thing(phrase), box) for phrase, box in instances_of(task)] for task in tasks]
        given = [each["told"]["detections"] for each in found]
        return super().summary(tasks, found) | average_precision(wanted, given)


def _thing(phrase: str) -> str:
    """What a detector looks for: the phrase without its article."""
    first, _, rest = phrase.partition(" ")
    return rest if first.lower() in ("a", "an", "the") and rest else phrase


def average_precision(
    wanted: Sequence[Sequence[tuple[str, Box]]],
    found: Sequence[Mapping[str, Sequence[Sequence[float]]]],
) -> Numbers:
    """AP, AP50 and AP75 of COCO (Lin et al. 2014), mean over classes, of pictures with things in boxes;
    `found` are score and box of each detection by class. Classes that nobody wanted in a picture are not
    looked for in it, so that this AP is of pictures whose classes are known."""
    classes = sorted({thing for picture in wanted for thing, _ in picture})
    precision = {
        overlap: float(np.mean([_precision(thing, wanted, found, overlap) for thing in classes]))
        for overlap in OVERLAPS
    }
    return {
        "ap": float(np.mean(list(precision.values()))), "ap50": precision[0.5], "ap75": precision[0.75]
    }  # fmt: skip


def _precision(
    thing: str,
    wanted: Sequence[Sequence[tuple[str, Box]]],
    found: Sequence[Mapping[str, Sequence[Sequence[float]]]],
    overlap: float,
) -> float:
    """Of one class at one overlap: the surest detection first takes the free box that it covers best."""
    boxes = [[box for name, box in picture if name == thing] for picture in wanted]
    count = sum(map(len, boxes))
    detections = [
        (-score, place, number, (x0, y0, x1, y1))
        for place, picture in enumerate(found)
        for number, (score, x0, y0, x1, y1) in enumerate(picture.get(thing, ()))
    ]
    taken: dict[int, set[int]] = defaultdict(set)
    hits = []
    for _, place, _, box in sorted(detections):
        free = [
            (intersection_over_union(box, other), number)
            for number, other in enumerate(boxes[place]) if number not in taken[place]
        ]  # fmt: skip
        best, number = max(free, default=(0.0, -1))
        hits.append(best >= overlap)
        if hits[-1]:
            taken[place].add(number)
    right = np.cumsum(np.array(hits, dtype=float))
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / count, RECALLS - 1e-12)
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())
