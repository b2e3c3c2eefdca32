"""Layouts as benchmarks hold them: COCO-MIG's file, COCO's annotations, lists of one's own.

    DIR/mig_bench_anno.yaml       COCO-MIG (Zhou et al., MIGC, CVPR 2024): {prompt: {"a red dog": [box, ...],
                                  ..., coco_id: NUMBER}}; or mig_bench.json, of which it is read alike
    DIR/layouts.json              one's own: [{"prompt": TEXT, "regions": [{"phrase": TEXT, "box": [...]}]}]
    DIR/instances_*.json          COCO's boxes, with captions_*.json beside it

Boxes are parts of width and height. The order of things is that of the file.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mgie.data.files import MALFORMED, read_json, reason, regular
from mgie.data.grounding import check_box
from mgie.errors import DataError
from mgie.evaluation.controlled.benchmark import Task
from mgie.evaluation.controlled.coco_mig import Wanted
from mgie.types import Box, Region

COCO_MIG = ("mig_bench_anno.yaml", "mig_bench.json")
OWN = "layouts.json"
FORM = '[{"prompt": TEXT, "regions": [{"phrase": TEXT, "box": [x0, y0, x1, y1]}]}]'
LEAST_SIDE = 1 / 8
"""Things with a shorter side are left out of a picture. (COCO-MIG's construction)"""
MOST = 6
"""How many things a picture has at most."""


def read_coco_mig(folder: Path) -> list[Task]:
    """The tasks of COCO-MIG, as the file orders them; a task's kind is its level, L2 to L6. Raises DataError
    for whatever is no prompt with instances in boxes."""
    path = next((folder / name for name in COCO_MIG if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{folder} has no {COCO_MIG[0]}: --data expects COCO-MIG's files as published.")
    tasks = []
    for number, prompt, instances in _yaml(path) if path.suffix == ".yaml" else _json(path):
        for phrase, box in instances:
            _check(box, phrase, path)
            Wanted.of(phrase, box)  # what is no instance of COCO-MIG is told now
        tasks.append(layout_task(f"{number:04d}", prompt, instances, kind=f"L{len(instances)}"))
    return tasks


def read_positions(folder: Path, count: int) -> list[Task]:
    """Layouts of phrases in boxes, `count` at most: one's own list, or pictures of COCO, each with its first
    caption and the things that are large enough. Raises DataError."""
    if (folder / OWN).is_file():
        listed = read_json(folder / OWN, _own, FORM)
        for _, instances in listed:
            for phrase, box in instances:
                _check(box, phrase, folder / OWN)
        return [
            layout_task(f"{number:04d}", prompt, instances, kind=f"L{len(instances)}")
            for number, (prompt, instances) in enumerate(listed[:count])
        ]
    files = sorted({*folder.glob("instances_*.json"), *folder.glob("annotations/instances_*.json")})
    if not files:
        raise DataError(
            f"{folder} has neither {OWN} nor instances_*.json: --data expects a list of layouts, or COCO's "
            "annotations with captions_*.json beside them."
        )
    captions = files[0].with_name(files[0].name.replace("instances", "captions"))
    found = coco_layouts(
        read_json(files[0], dict, "COCO's instances"), read_json(captions, dict, "COCO's captions")
    )
    return [
        layout_task(f"{number:012d}", prompt, instances, kind=f"L{len(instances)}")
        for number, prompt, instances in found[:count]
    ]


def layout_task(key: str, prompt: str, instances: Sequence[tuple[str, Box]], *, kind: str = "") -> Task:
    """A new picture of a prompt, with phrases in boxes."""
    regions = [Region(phrase=phrase, box=box) for phrase, box in instances]
    facts = {"instances": [{"phrase": phrase, "box": list(box)} for phrase, box in instances]}
    return Task(key=key, instruction=prompt, controls={"regions": lambda: regions}, facts=facts, kind=kind)


def instances_of(task: Task) -> list[tuple[str, Box]]:
    """The phrases of a layout, and their boxes."""
    return [(each["phrase"], tuple(each["box"])) for each in task.facts["instances"]]  # type: ignore[misc]


def coco_layouts(
    instances: Mapping[str, Any], captions: Mapping[str, Any]
) -> list[tuple[int, str, list[tuple[str, Box]]]]:
    """COCO's annotations -> number of each picture, its first caption, "a <class>" in each box; by number.
    Crowds and boxes with a side below 1/8 are left out, and of more than six the first six are taken, as for
    COCO-MIG; pictures that have none left, or no caption, are left out. Raises DataError."""
    try:
        classes = {each["id"]: str(each["name"]) for each in instances["categories"]}
        sizes = {each["id"]: (float(each["width"]), float(each["height"])) for each in instances["images"]}
        words: dict[int, str] = {}
        for each in captions["annotations"]:
            words.setdefault(each["image_id"], " ".join(str(each["caption"]).split()))
        found: dict[int, list[tuple[str, Box]]] = {}
        for each in instances["annotations"]:
            wide, high = sizes[each["image_id"]]
            left, top, width, height = (float(side) for side in each["bbox"])
            box = (left / wide, top / high, min((left + width) / wide, 1.0), min((top + height) / high, 1.0))
            if not each.get("iscrowd") and min(box[2] - box[0], box[3] - box[1]) >= LEAST_SIDE:
                thing = classes[each["category_id"]]
                article = "an" if thing[0] in "aeiou" else "a"
                found.setdefault(each["image_id"], []).append((f"{article} {thing}", box))
    except MALFORMED as error:
        raise DataError(
            f"the annotations are not COCO's ({reason(error)}): expected images, annotations and categories."
        ) from error
    return [(number, words[number], found[number][:MOST]) for number in sorted(found) if number in words]


Listed = list[tuple[int, str, list[tuple[str, Box]]]]


def _yaml(path: Path) -> Listed:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        held = yaml.load(regular(path).read_text(encoding="utf-8"), Loader=loader)
        return [
            (int(told["coco_id"]), str(prompt), [
                (str(phrase), _box(box)) for phrase, boxes in told.items() if phrase != "coco_id"
                for box in boxes
            ])
            for prompt, told in held.items()
        ]  # fmt: skip
    except (*MALFORMED, yaml.YAMLError) as error:
        raise DataError(
            f"{path} cannot be read ({reason(error)}): expected prompts with phrases, boxes and a coco_id."
        ) from error


def _json(path: Path) -> Listed:
    form = '{NUMBER: {"caption": TEXT, "segment": [{"label": TEXT, "bbox": [...]}]}}'

    def understood(held: Any) -> Listed:
        return [
            (int(number), str(told["caption"]), [(str(s["label"]), _box(s["bbox"])) for s in told["segment"]])
            for number, told in held.items()
        ]

    return read_json(path, understood, form)


def _own(held: Any) -> list[tuple[str, list[tuple[str, Box]]]]:
    return [
        (str(told["prompt"]), [(str(each["phrase"]), _box(each["box"])) for each in told["regions"]])
        for told in held
    ]


def _box(sides: Any) -> Box:
    x0, y0, x1, y1 = (float(side) for side in sides)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError("a side of a box is no number")
    return x0, y0, x1, y1


def _check(box: Box, phrase: str, path: Path) -> None:
    check_box(box, f"the box of {phrase!r} in {path}")
