"""Edits inside masks: is the outside untouched, the edge unseen, the inside right?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from mgie.controllers.region import RegionOptions
from mgie.controllers.softening import grown
from mgie.data.images import decode, decode_mask, resize
from mgie.errors import DataError
from mgie.evaluation.controlled.benchmark import AbstractMeasure, Measured, Task
from mgie.types import EditPair

WHITE = 128
"""From which grey value on a place belongs to a mask."""
RING = 4.0
"""How many pixels from a mask's edge its neighbourhood reaches."""


def read_regions(folder: Path, count: int) -> list[Task]:
    """The pairs with a mask in the test split of a data set, `count` at most, in its order. Raises DataError
    where there is none, or where one has another shape than its photo."""
    from mgie.data.shards import check_set
    from mgie.data.stored_pairs import StoredPairs

    check_set(folder, sampled=True)
    stored = StoredPairs(folder, "test")
    tasks: list[Task] = []
    for place in range(len(stored)):
        pair = stored[place]
        if pair.mask is not None and pair.source is not None:
            tasks.append(_task(f"{len(tasks):06d}", pair))
        if len(tasks) == count:
            break
    if not tasks:
        raise DataError(
            f"{folder} has no pair with a mask among {len(stored)} of its test split: expected masks beside "
            "the pairs; prepare it with its folder of masks."
        )
    return tasks


def _task(key: str, pair: EditPair) -> Task:
    assert pair.mask is not None
    mask = pair.mask
    decode_mask(mask, name=f"the mask of {pair.key}")  # one that cannot be read is told now
    return Task(
        key=key, instruction=pair.instruction, source=pair.source, target=pair.target, mask=pair.mask,
        controls={"mask": lambda: decode_mask(mask, name=key)}, facts={"pair": pair.key},
        kind=pair.kind, cluster=pair.session,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Locality(AbstractMeasure):
    """What an edit did outside its mask, at the mask's edge and inside.

    `outside_change` is the greatest change of a value outside mask and feather, from 0 to 1, `outside_equal`
    whether there is none, `outside_l1` the mean change there. `seam` is how much pixels differ across the
    mask's edge, over how much neighbours on one side of it do, a few pixels around: 1 where it is not seen.
    `inside_l1` is the distance from the target inside, `inside_change` that from the photo: 0 where nothing
    was done.
    """

    feather: float = RegionOptions().feather
    """Width of the ring in which an edit and its photo may be mixed, for a picture of 512 x 512 pixels."""

    @property
    def depends_on(self) -> dict[str, Any]:
        """The ring's width, in which nothing is measured outside."""
        return {"feather": self.feather, "ring": RING}

    def measure(self, task: Task, picture: Image.Image) -> Measured:
        """Of a picture at its photo's size, to which another one is brought by Pillow's bicubic filter."""
        assert task.source is not None and task.mask is not None
        photo = decode(task.source, name=task.key)
        mask = decode_mask(task.mask, name=task.key)
        inside = np.asarray(mask.resize(photo.size, Image.Resampling.NEAREST)) >= WHITE
        ring = RegionOptions(feather=self.feather).scaled(self.feather, photo.size)
        outside = ~grown(inside, ring)
        output, before = _values(resize(picture, photo.size)), _values(photo)
        change = np.abs(output - before)
        scores, notes = {}, {}
        if outside.any():
            greatest = float(change[outside].max())
            scores |= {
                "outside_equal": float(greatest == 0), "outside_change": greatest,
                "outside_l1": float(change[outside].mean()),
            }  # fmt: skip
        else:
            notes |= {name: ["nothing outside"] for name in ("outside_equal", "outside_change", "outside_l1")}
        if inside.any():
            scores["inside_change"] = float(change[inside].mean())
            if task.target is not None:
                target = _values(resize(decode(task.target, name=task.key), photo.size))
                scores["inside_l1"] = float(np.abs(output - target)[inside].mean())
        seam = seam_ratio(output, inside)
        if seam is None:
            notes["seam"] = ["no edge to compare"]
        else:
            scores["seam"] = seam
        return Measured(scores=scores, notes=notes)


def seam_ratio(picture: Float[np.ndarray, "y x 3"], inside: Bool[np.ndarray, "y x"]) -> float | None:
    """Mean difference of neighbours across a mask's edge over that of neighbours on one side of it, within
    `RING` pixels. None where there is no edge, or where all is flat around it."""
    near = grown(inside, RING) & grown(~inside, RING)
    across, beside = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture, axis=axis)).mean(axis=-1)
        first, second = _pairs(inside, axis)
        close = np.logical_and(*_pairs(near, axis))
        across.append(steps[first != second])
        beside.append(steps[(first == second) & close])
    over, usual = np.concatenate(across), np.concatenate(beside)
    if not over.size or not usual.size or not math.isfinite(usual.mean()) or usual.mean() == 0:
        return None
    return float(over.mean() / usual.mean())


def _pairs(values: np.ndarray, axis: int) -> Sequence[np.ndarray]:
    """Each place and the one after it."""
    return (values[:-1], values[1:]) if axis == 0 else (values[:, :-1], values[:, 1:])


def _values(picture: Image.Image) -> Float[np.ndarray, "y x 3"]:
    return np.asarray(picture.convert("RGB"), np.float64) / 255
