"""Subjects found, cut out and compared: by a detector of colours and a DINO of random weights."""

import json

import numpy as np
import pytest
from controlled_data import FINDERS, painted
from PIL import Image

from mgie.errors import DataError
from mgie.evaluation.controlled.subjects import DetectAndCompare, Shown, read_subjects
from mgie.evaluation.measures.features import Dino

LEFT, RIGHT, CORNER = (0.0, 0.0, 0.4, 0.8), (0.6, 0.0, 1.0, 0.8), (0.45, 0.85, 0.55, 1.0)


def shown(name, phrase):
    thing = phrase.split()[-1]
    photos = [painted((thing, (0.1 * place, 0.0, 0.9, 0.9))) for place in range(3)]
    return Shown(name=name, phrase=phrase, photos=tuple(photos))


SUBJECTS = [shown("a", "olis ball"), shown("b", "hta cup")]


def write(folder, *prompts):
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture
def measure(dino_folder):
    return DetectAndCompare(finders=FINDERS, dino=Dino(dino_folder), subjects=SUBJECTS)


def test_names_become_phrases(tmp_path):
    told = {"prompt": "a photo of {b} beside {a}", "subjects": ["b", "a"]}
    (task,) = read_subjects(write(tmp_path, told), 9, SUBJECTS)
    assert task.instruction == "a photo of hta cup beside olis ball" and task.kind == "2 subjects"
    assert [len(shas) for shas in task.facts["photos"].values()] == [3, 3]


@pytest.mark.parametrize("names", [["c"], [], ["a", "a"]])
def test_names_that_nobody_has(names, tmp_path):
    with pytest.raises(DataError, match=r"prompts.json, prompt 1 .*: expected some of a, b, each once"):
        read_subjects(write(tmp_path, {"prompt": "x", "subjects": names}), 9, SUBJECTS)
    with pytest.raises(DataError, match="cannot be read"):
        read_subjects(write(tmp_path, {"prompt": "x"}), 9, SUBJECTS)


def test_each_subject_once_scores_more_than_one_twice(measure, tmp_path):
    told = {"prompt": "{a} and {b}", "subjects": ["a", "b"]}
    (task,) = read_subjects(write(tmp_path, told), 9, SUBJECTS)
    both = measure.measure(task, painted(("ball", LEFT), ("cup", RIGHT)))
    twice = measure.measure(task, painted(("ball", LEFT), ("ball", RIGHT)))
    assert both.scores["number_right"] == twice.scores["number_right"] == 1
    assert both.scores["dnc"] > twice.scores["dnc"] and np.array(both.told["similarity"]).shape == (2, 2)
    many = measure.measure(task, painted(("ball", LEFT), ("cup", RIGHT), ("cup", CORNER)))
    assert (many.scores["dnc"], many.scores["number_right"]) == (0, 0)
    assert many.told["reason"] == "3 things for 2 subjects: too many"
    nothing = measure.measure(task, Image.new("RGB", (64, 64)))
    assert nothing.scores["dnc"] == 0 and nothing.told["reason"].endswith("too few")


def test_greedy_is_a_number_of_its_own(measure, tmp_path):
    told = {"prompt": "{a} and {b}", "subjects": ["a", "b"]}
    (task,) = read_subjects(write(tmp_path, told), 9, SUBJECTS)
    scores = measure.measure(task, painted(("ball", LEFT), ("cup", RIGHT))).scores
    assert set(scores) == {"dnc", "dnc_greedy", "number_right"} and scores["dnc"] <= 1
    assert measure.depends_on["weights"]["dino"].keys() == {"model.safetensors"}


def test_the_rare_word_is_not_looked_for():
    assert SUBJECTS[0].thing == "ball" and shown("a", "ball").thing == "ball"
