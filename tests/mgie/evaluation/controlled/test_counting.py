"""What prompts count, and whether pictures hold as many."""

import json

import pytest
from controlled_data import FINDERS, painted

from mgie.errors import DataError
from mgie.evaluation.controlled.benchmark import Task
from mgie.evaluation.controlled.counting import Counts, counted, read_counting


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("Two cats and one dog sitting on the grass.", {"cat": 2, "dog": 1}),
        ("Five cars on the street.", {"car": 5}),
        ("one bus and 12 buses", {"bus": 13}),
        ("Ten geese, three mice", {"goose": 10, "mouse": 3}),
    ],
)
def test_numbers_in_words(prompt, things, tmp_path):
    assert counted(prompt, tmp_path) == things


def test_drawbench_s_file_and_one_s_own(tmp_path):
    (tmp_path / "drawbench.csv").write_text(
        "Prompts,Category\nA red cube.,Colors\nThree dogs on the street.,Counting\nOne cat.,Counting\n"
    )
    tasks = read_counting(tmp_path, 9)
    assert [(task.key, task.kind, task.facts["things"]) for task in tasks] == [
        ("0000", "3", {"dog": 3}), ("0001", "1", {"cat": 1})
    ]  # fmt: skip
    own = [{"prompt": "a pack of dogs", "things": {"dog": 4}}]
    (tmp_path / "counting.json").write_text(json.dumps(own))
    (task,) = read_counting(tmp_path, 9)
    assert task.facts["things"] == {"dog": 4} and task.instruction == "a pack of dogs"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "x.csv",
            "Prompts,Category\nSome dogs,Counting\n",
            "'Some dogs' says no number: write",
        ),
        ("x.csv", "Prompts,Category\nOne dog,Colors\n", "has no prompt of the category Counting"),
        ("x.csv", "a,b\nOne dog,Counting\n", "expected columns Prompts and Category"),
        ("counting.json", '[{"prompt": "x", "things": {}}]', "'x' counts nothing"),
        ("counting.json", '[{"prompt": "x"}]', "cannot be read"),
        ("nothing.txt", "", r"has neither counting.json nor DrawBench's \.csv"),
    ],
)
def test_what_counts_nothing_is_told(name, text, says, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        read_counting(tmp_path, 9)


def test_things_are_counted():
    task = Task(key="a", instruction="two balls and a cup", facts={"things": {"ball": 2, "cup": 1}})
    one, two, three = (0.0, 0.0, 0.2, 0.2), (0.4, 0.0, 0.6, 0.2), (0.8, 0.0, 1.0, 0.2)
    cup = ("cup", (0.0, 0.5, 0.5, 1.0))
    measure = Counts(finders=FINDERS)
    right = measure.measure(task, painted(("ball", one), ("ball", two), cup))
    assert dict(right.scores) == {"counts_right": 1, "all_counts_right": 1, "miscounted": 0}
    many = measure.measure(task, painted(("ball", one), ("ball", two), ("ball", three), cup))
    assert dict(many.scores) == {"counts_right": 0.5, "all_counts_right": 0, "miscounted": 0.5}
    assert many.told == {"found": {"ball": 3, "cup": 1}}
    assert measure.measure(task, painted()).scores["miscounted"] == 1.5
