"""Records of MIGE's authors."""

import json

import pytest

from mgie.data.sources import fingerprint, open_source
from mgie.data.sources.base import Options
from mgie.data.validation import Gate, check
from mgie.errors import DataError

RECORDS = [
    {"image": "out/0.png", "multi_prompt": "a<imagehere>with<imagehere>in the jungle",
     "entity_path": ["cup.png", "hat.png"], "source_path": []},
    {"image": "out/1.png", "multi_prompt": "make the sky dark in<imagehere>", "entity_path": ["room.png"],
     "source_path": ["room.png"], "width": 12, "height": 12},
    {"image": "out/2.png", "multi_prompt": "Add<imagehere>to the left of<imagehere>.",
     "entity_path": ["cup.png", "room.png"], "source_path": ["room.png"], "idx": 7},
]  # fmt: skip


@pytest.fixture
def write(tmp_path, make_picture):
    (tmp_path / "out").mkdir()
    for seed, name in enumerate(("out/0.png", "out/1.png", "out/2.png", "cup.png", "hat.png", "room.png")):
        (tmp_path / name).write_bytes(make_picture(seed=seed))

    def made(records, name="add.json"):
        (tmp_path / name).write_text(json.dumps(records))
        return f"mige:{tmp_path / name}"

    return made


def rows(source, split="train", **options):
    return list(open_source(source, Options(**({"test": 0} | options)))[split])


def test_a_record_s_task_is_told_by_what_is_in_it(write, tmp_path):
    found = rows(write(RECORDS))
    assert [(pair.task, pair.key, pair.instruction) for pair in found] == [
        ("subject", "add-000001", "a <image> with <image> in the jungle"),
        ("edit", "add-000002", "make the sky dark in <source>"),
        ("subject_edit", "7", "Add <image> to the left of <source> ."),
    ]
    files = {name: (tmp_path / f"{name}.png").read_bytes() for name in ("cup", "hat", "room", "out/2")}
    assert [pair.source for pair in found] == [None, files["room"], files["room"]]
    assert [pair.pictures for pair in found] == [(files["cup"], files["hat"]), (), (files["cup"],)]
    assert found[2].target == files["out/2"] and found[1].meta == {"width": "12", "height": "12"}
    assert all(check(pair) for pair in found)
    assert [pair.key for pair in rows(write(RECORDS), "test", test=1)] == ["7"]


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"entity_path": []}, "record 1 of add.json has 2 places and 0 pictures"),
        ({"multi_prompt": "a<imagehere>"}, "record 1 of add.json has 1 places and 2 pictures"),
        ({"source_path": ["room.png", "cup.png"]}, "record 1 of add.json has 2 sources"),
        ({"image": None}, "record 1 of add.json has no image: expected a text"),
        ({"entity_path": ["cup.png", 3]}, "record 1 of add.json has no entity_path: expected a list"),
        ({"entity_path": ["cup.png", "gone.png"]}, r"the picture of add-000001, .*gone\.png, cannot be read"),
        ({"entity_path": ["room.png"] * 2, "source_path": ["room.png"]}, "<source> 2 times: expected"),
    ],
)
def test_a_record_that_is_wrong_is_set_aside_by_its_number(write, changes, wrong):
    gate = Gate()
    sound = list(gate(rows(write([RECORDS[0] | changes, RECORDS[1]]))))
    assert [pair.key for pair, _ in sound] == ["add-000002"]
    (rejected,) = gate.rejected
    with pytest.raises(Exception, match=wrong):
        raise rejected


@pytest.mark.parametrize("content", ['{"image": "a.png"}', "[", None])
def test_what_is_no_list_of_records_is_refused(write, tmp_path, content):
    write([])
    if content is not None:
        (tmp_path / "add.json").write_text(content)
    place = tmp_path / ("add.json" if content else "nowhere.json")
    with pytest.raises(DataError, match=r"cannot be read .*: expected \[\{\"image\""):
        rows(f"mige:{place}")


def test_pictures_that_records_name_belong_to_what_the_source_is(write, tmp_path):
    source = write([*RECORDS, "no record"])
    before = fingerprint(source)
    assert before["files"] == 7
    (tmp_path / "hat.png").write_bytes(b"other")
    assert fingerprint(source)["sha256"] != before["sha256"]
