"""Benchmarks whose instructions hold pictures, as they lie on a disk, and what is wrong with others."""

import json

import pytest
from pictured_data import write_dreambench, write_migebench

from mgie.errors import DataError
from mgie.evaluation.published.data import is_published, read_layout
from mgie.evaluation.published.protocol import find_protocol

MIGEBENCH, DREAMBENCH = find_protocol("migebench"), find_protocol("dreambench")


def test_migebench_says_which_place_is_the_source_s(tmp_path):
    views = read_layout(MIGEBENCH, write_migebench(tmp_path), unpinned=True)
    add, replace = views["add"][1], views["replace"][1]
    assert add.instruction == "Add <image> to the left of <source>"
    assert replace.instruction == "In <source> put <image> ."
    assert [path.relative_to(tmp_path).as_posix() for path in (*add.images, add.source, add.target)] == [
        "add_entity/1.png", "add_source/1.png", "add_target/1.png"
    ]  # fmt: skip
    assert add.entity == add.images[0] and (add.output, add.thing) == ("add/1.png", "the dog")
    assert (add.caption, add.source_caption) == ("a red d", "a d")
    assert not is_published(MIGEBENCH, views)
    with pytest.raises(DataError, match="holds 2 add, 2 replace and the published data of migebench 500 add"):
        read_layout(MIGEBENCH, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"multi_prompt": "Add <imagehere>"}, "record 0 has 1 places and 2 pictures"),
        ({"entity_path": ["add_source/0.png"] * 2}, "record 0 shows 0 things: expected one beside"),
        ({"source_path": []}, "record 0 has 0 sources"),
        ({"image": "../x.png"}, "names '../x.png': expected a file inside the folder"),
        ({"image": "add_target/9.png"}, r"9.png is missing: download the benchmark's data again"),
        ({"object": None, "entity_path": None}, "cannot be read"),
        ({"idx": "../1"}, "record ../1 has 1 sources"),
    ],
)
def test_records_that_are_wrong_are_told(change, says, tmp_path):
    write_migebench(tmp_path)
    records = json.loads((tmp_path / "add_bench.json").read_text())
    records[0] |= change
    (tmp_path / "add_bench.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match=says):
        read_layout(MIGEBENCH, tmp_path, unpinned=True)


def test_dreambench_has_prompts_for_things_and_for_living_ones(tmp_path):
    views = read_layout(DREAMBENCH, write_dreambench(tmp_path), unpinned=True)
    told = [(entry.output, entry.instruction, entry.caption) for entry in views["test"]]
    assert told == [
        ("cup0/00.png", "a <image> in the jungle", "a red cup in the jungle"),
        ("cup0/01.png", "a <image> on top of the dog's bed", "a red cup on top of the dog's bed"),
        ("dog2/00.png", "a <image> in a hat", "a dog in a hat"),
    ]
    entry = views["test"][0]
    assert entry.source is None and len(entry.references) == 2 and entry.images == entry.references[:1]
    assert entry.cluster == "cup0" and entry.kind == "red cup"


def test_a_dreambench_that_is_not_whole(tmp_path):
    with pytest.raises(DataError, match="expects DreamBooth's data set"):
        read_layout(DREAMBENCH, tmp_path, unpinned=True)
    write_dreambench(tmp_path)
    for path in (tmp_path / "dataset" / "dog2").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="dog2 has no photo"):
        read_layout(DREAMBENCH, tmp_path, unpinned=True)
