"""Regions as files tell them, and as a batch holds them.

A file of regions is a list, [{"phrase": "a red ball", "box": [0.1, 0.5, 0.4, 0.9]}, ...]. Instead of a box,
whose numbers are parts of width and height, a region may have a mask, the name of a picture beside that file.
The annotations of COCO-MIG are read too: YAML, of each prompt its phrases with their boxes.
"""

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from mgie.controllers.layout_masks import boxes_of
from mgie.data.augment import KEPT
from mgie.data.files import reason
from mgie.data.images import covered, decode_mask, encode, resize
from mgie.errors import DataError
from mgie.types import Box, ControlBatch, Region, Size

FORM = 'a list such as [{"phrase": "a red ball", "box": [0.1, 0.5, 0.4, 0.9]}]'
FIELDS = ("phrase", "box", "mask", "scales")
NUMBER = "coco_id"
"""What the benchmark's entries have beside their phrases."""


def read_regions(path: str | Path, *, prompt: str = "") -> tuple[Region, ...]:
    """The regions of a file; of the benchmark's those of its entry `prompt`, where it has several. Raises
    DataError."""
    path = Path(path)
    held = region_rows(path, prompt=prompt)
    if not isinstance(held, list) or not all(isinstance(each, dict) for each in held):
        raise DataError(f"{path} holds a {type(held).__name__}: expected {FORM}.")
    return tuple(_region(each, number, path) for number, each in enumerate(held, 1))


def region_rows(path: Path, *, prompt: str = "") -> Any:
    """What a file of regions holds, as if it were a list of JSON. Raises DataError."""
    if not path.is_file():
        raise DataError(f"there are no regions {path}: expected a JSON file with {FORM}.")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() not in (".yaml", ".yml"):
            return json.loads(text)
        held = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "YAML" if path.suffix.lower() in (".yaml", ".yml") else "JSON"
        raise DataError(f"{path} is no {kind} ({reason(error)}): expected {FORM}.") from error
    return _entry(held, path, prompt) if isinstance(held, dict) else held


def region_fields(phrase: Any, box: Any = None, mask: Any = None, scales: Any = (1, 1, 1)) -> dict[str, Any]:
    """The fields of Region, with the name of a mask's file. Raises ValueError, TypeError or OverflowError for
    what is none."""
    box, scales = None if box is None else tuple(map(float, box)), tuple(map(float, scales))
    types = isinstance(phrase, str) and isinstance(mask, str | None)
    if not types or len(scales) != 3 or (box is not None and len(box) != 4):
        raise ValueError("another number or type of values")
    return {"phrase": phrase, "box": box, "mask": mask, "scales": scales}


def _region(told: dict[str, Any], number: int, path: Path) -> Region:
    if unknown := sorted(set(told) - set(FIELDS)):
        raise DataError(
            f"region {number} of {path} has {unknown[0]}: expected some of {', '.join(sorted(FIELDS))}."
        )
    try:
        values = region_fields(**told)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"region {number} of {path} is no region ({error}): expected {FORM}.") from error
    if values["mask"] is not None:
        place = path.parent / values["mask"]
        if not place.is_file():
            raise DataError(f"region {number} of {path} has the mask {place}, but there is no such file.")
        values["mask"] = place.read_bytes()
    return Region(**values)


def _entry(held: dict[Any, Any], path: Path, prompt: str) -> list[dict[str, Any]]:
    """The entry of a prompt among COCO-MIG's annotations, in the file's order."""
    if prompt not in held and len(held) != 1:
        near = difflib.get_close_matches(prompt, [name for name in held if isinstance(name, str)], n=1)
        told = f"the nearest is {near[0]!r}" if near else "give one of its prompts as the words"
        raise DataError(f"{path} has {len(held)} prompts, and none is {prompt[:60]!r}: {told}.")
    entry = held[prompt] if prompt in held else next(iter(held.values()))
    entry = (
        {name: boxes for name, boxes in entry.items() if name != NUMBER} if isinstance(entry, dict) else {}
    )
    if not entry or not all(isinstance(boxes, list) for boxes in entry.values()):
        raise DataError(
            f"{path} has an entry without phrases and lists of boxes: expected those of COCO-MIG."
        )
    return [{"phrase": phrase, "box": box} for phrase, boxes in entry.items() for box in boxes]


def cropped(regions: Sequence[Region], size: Size, shape: Size) -> tuple[Region, ...]:
    """The regions of a picture of this width and height in its largest centred part of the shape width :
    height; those of which a tenth at most is left are not among them."""
    left, top, right, bottom = covered(size, *shape)
    if (left, top, right, bottom) == (0, 0, *size):
        return tuple(regions)
    found = []
    for region in regions:
        box, mask = region.box and _cut(region.box, size, (left, top, right, bottom)), region.mask
        if mask is not None:
            drawn = decode_mask(mask, name="a region's mask")
            part = drawn.crop(covered(drawn.size, *shape))
            left_over, whole = (np.asarray(each).sum(dtype=np.int64) for each in (part, drawn))
            if left_over < KEPT * max(whole, 1):
                continue
            mask = encode(part, "BMP")
        elif box is None:
            continue
        found.append(replace(region, box=box, mask=mask))
    return tuple(found)


def placed(
    regions: Sequence[Region], ids: Callable[[str], list[int]], *, size: Size, shape: Size, pixels: Size
) -> ControlBatch:
    """The regions of one picture of width and height `size`, whose centre of the shape `shape` is seen at
    `pixels`; `ids` gives the words of a phrase. Without any, a place that nothing takes."""
    inside = cropped(regions, size, shape)
    count = max(len(inside), 1)
    boxes, scales = torch.zeros(1, count, 4, dtype=torch.float64), torch.ones(1, count, 3)
    words = [ids(region.phrase) for region in inside]
    phrases = torch.full((1, count, max([1, *map(len, words)])), -1)
    drawn = any(region.mask is not None for region in inside)
    stencils = torch.zeros(1, count, pixels[1], pixels[0], dtype=torch.uint8) if drawn else None
    for place, region in enumerate(inside):
        phrases[0, place, : len(words[place])] = torch.tensor(words[place], dtype=torch.long)
        scales[0, place] = torch.tensor(region.scales)
        if region.mask is None or stencils is None:
            boxes[0, place] = torch.tensor(region.box, dtype=torch.float64)
            continue
        mask = decode_mask(region.mask, name="a region's mask")
        boxes[0, place] = boxes_of(torch.from_numpy(np.array(mask)))
        stencils[0, place] = torch.from_numpy(np.array(resize(mask, pixels)))
    present = torch.arange(count)[None] < len(inside)
    return ControlBatch(boxes=boxes, present=present, phrases=phrases, scales=scales, stencils=stencils)


def together(each: Sequence[ControlBatch]) -> ControlBatch:
    """The regions of pictures of one size side by side, padded to the most of a picture."""
    count = max(one.present.shape[1] for one in each)
    longest = max(one.phrases.shape[2] for one in each)
    sizes = [one.stencils.shape[2:] for one in each if one.stencils is not None]

    def filled(values: Tensor, with_: int) -> Tensor:
        more = values.new_full((1, count - values.shape[1], *values.shape[2:]), with_)
        return torch.cat([values, more], dim=1)

    def words(one: ControlBatch) -> Tensor:
        return torch.nn.functional.pad(one.phrases, (0, longest - one.phrases.shape[2]), value=-1)

    def drawn(one: ControlBatch) -> Tensor:
        if one.stencils is not None:
            return one.stencils
        return torch.zeros(1, one.present.shape[1], *sizes[0], dtype=torch.uint8)

    return ControlBatch(
        boxes=torch.cat([filled(one.boxes, 0) for one in each]),
        present=torch.cat([filled(one.present, 0) for one in each]),
        phrases=torch.cat([filled(words(one), -1) for one in each]),
        scales=torch.cat([filled(one.scales, 1) for one in each]),
        stencils=torch.cat([filled(drawn(one), 0) for one in each]) if sizes else None,
    )


def _cut(box: Box, size: Size, part: tuple[int, int, int, int]) -> Box | None:
    """A box within a part of its picture; None where little of it is left."""
    scale = np.array([*size, *size])
    begin, sides = np.array([*part[:2], *part[:2]]), np.array([part[2] - part[0], part[3] - part[1]] * 2)
    x0, y0, x1, y1 = ((np.array(box) * scale - begin) / sides).clip(0, 1).tolist()
    whole = (box[2] - box[0]) * (box[3] - box[1]) * size[0] * size[1]
    return (x0, y0, x1, y1) if (x1 - x0) * (y1 - y0) * sides[0] * sides[1] > KEPT * whole else None
