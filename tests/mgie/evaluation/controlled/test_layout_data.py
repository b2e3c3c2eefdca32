"""Layouts as COCO-MIG, COCO and users have them, and what is wrong with others."""

import json

import pytest
import yaml

from mgie.errors import DataError
from mgie.evaluation.controlled.layout_data import coco_layouts, instances_of, read_coco_mig, read_positions

LEFT, RIGHT = [0.0, 0.25, 0.5, 0.75], [0.5, 0.0, 1.0, 1.0]
BENCH = {
    "a photo of a red dog and a blue cup and a red dog": {
        "a blue cup": [RIGHT], "a red dog": [LEFT, RIGHT], "coco_id": "7"
    },
    "a photo of a green dog and a white cup": {"a green dog": [LEFT], "a white cup": [RIGHT], "coco_id": "0"},
}  # fmt: skip


def test_coco_mig_in_the_order_of_its_file(tmp_path):
    (tmp_path / "mig_bench_anno.yaml").write_text(yaml.safe_dump(BENCH, sort_keys=False))
    tasks = read_coco_mig(tmp_path)
    assert [(task.key, task.kind, task.source) for task in tasks] == [
        ("0007", "L3", None),
        ("0000", "L2", None),
    ]
    assert instances_of(tasks[0]) == [
        ("a blue cup", tuple(RIGHT)), ("a red dog", tuple(LEFT)), ("a red dog", tuple(RIGHT))
    ]  # fmt: skip
    regions = tasks[1].controls["regions"]()
    assert [(each.phrase, each.box) for each in regions] == [
        ("a green dog", tuple(LEFT)), ("a white cup", tuple(RIGHT))
    ]  # fmt: skip
    assert tasks[1].instruction == "a photo of a green dog and a white cup"


def test_the_form_that_the_published_evaluation_reads_is_the_same(tmp_path):
    (tmp_path / "yaml").mkdir()
    (tmp_path / "json").mkdir()
    (tmp_path / "yaml" / "mig_bench_anno.yaml").write_text(yaml.safe_dump(BENCH, sort_keys=False))
    derived = {
        told["coco_id"]: {
            "caption": prompt, "image_id": int(told["coco_id"]),
            "segment": [
                {"bbox": box, "label": phrase}
                for phrase, boxes in told.items() if phrase != "coco_id" for box in boxes
            ],
        }
        for prompt, told in BENCH.items()
    }  # fmt: skip
    (tmp_path / "json" / "mig_bench.json").write_text(json.dumps(derived))
    one, other = read_coco_mig(tmp_path / "yaml"), read_coco_mig(tmp_path / "json")
    assert [(task.key, task.instruction, task.facts) for task in one] == [
        (task.key, task.instruction, task.facts) for task in other
    ]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"x": {"a mauve dog": [LEFT], "coco_id": "1"}}, "'a mauve dog' is no instance of COCO-MIG"),
        ({"x": {"a red dog": [[0, 0, 640, 480]], "coco_id": "1"}}, "divide pixels by"),
        ({"x": {"a red dog": [[0, 0, float("nan"), 1]], "coco_id": "1"}}, "a side of a box is no number"),
        ({"x": {"a red dog": [[0, 0, 1]], "coco_id": "1"}}, "cannot be read"),
        ({"x": {"a red dog": [LEFT]}}, "cannot be read .*coco_id"),
        (["x"], "expected prompts with phrases, boxes and a coco_id"),
    ],
)
def test_what_is_no_instance_is_told(told, says, tmp_path):
    (tmp_path / "mig_bench_anno.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(DataError, match=says):
        read_coco_mig(tmp_path)


def test_a_file_that_is_missing_or_torn(tmp_path):
    with pytest.raises(DataError, match=r"has no mig_bench_anno.yaml"):
        read_coco_mig(tmp_path)
    (tmp_path / "mig_bench_anno.yaml").write_text("a: [")
    with pytest.raises(DataError, match="cannot be read"):
        read_coco_mig(tmp_path)
    with pytest.raises(DataError, match=r"neither layouts.json nor instances_"):
        read_positions(tmp_path, 3)


def box(number, category, *sides, **more):
    return {"image_id": number, "category_id": category, "bbox": list(sides), **more}


COCO = {
    "images": [{"id": 9, "width": 200, "height": 100}, {"id": 3, "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "orange"}],
    "annotations": [
        box(9, 1, 0, 0, 100, 50),
        box(9, 2, 100, 50, 100, 50),
        box(9, 2, 0, 0, 24, 50),  # narrower than an eighth
        box(9, 1, 0, 0, 100, 100, iscrowd=1),
        *[box(3, 1, 10 * place, 10, 40, 40) for place in range(8)],
    ],
}
WORDS = {
    "annotations": [
        {"image_id": 9, "caption": " A cat and\nan orange. "},
        {"image_id": 9, "caption": "another"},
        {"image_id": 3, "caption": "Cats."},
    ]
}


def test_coco_s_annotations_become_layouts(tmp_path):
    found = coco_layouts(COCO, WORDS)
    assert [(number, words, len(things)) for number, words, things in found] == [
        (3, "Cats.", 6), (9, "A cat and an orange.", 2)
    ]  # fmt: skip
    assert found[1][2] == [("a cat", (0, 0, 0.5, 0.5)), ("an orange", (0.5, 0.5, 1, 1))]
    (tmp_path / "instances_val2014.json").write_text(json.dumps(COCO))
    (tmp_path / "captions_val2014.json").write_text(json.dumps(WORDS))
    (task,) = read_positions(tmp_path, 1)
    assert (task.key, task.kind, task.instruction) == ("000000000003", "L6", "Cats.")
    with pytest.raises(DataError, match="are not COCO's"):
        coco_layouts({"images": []}, WORDS)


def test_one_s_own_layouts(tmp_path):
    listed = [{"prompt": "two things", "regions": [{"phrase": "a cat", "box": LEFT}]}]
    (tmp_path / "layouts.json").write_text(json.dumps(listed))
    (task,) = read_positions(tmp_path, 5)
    assert instances_of(task) == [("a cat", tuple(LEFT))] and task.instruction == "two things"
    (tmp_path / "layouts.json").write_text(json.dumps([{"prompt": "x", "regions": [{"box": LEFT}]}]))
    with pytest.raises(DataError, match="cannot be read"):
        read_positions(tmp_path, 5)
