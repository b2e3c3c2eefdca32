import json

import pytest

from mgie.data.stored_pairs import StoredPairs
from mgie.data.toy import toy_pairs
from mgie.errors import ConfigError, DataError, DeviceError
from mgie.prepare import prepare


def test_toy_is_written_and_read_back(tmp_path):
    facts = prepare("toy", tmp_path / "toy", seed=3, count=12, test=4, size=32)
    assert {name: split["rows"] for name, split in facts["splits"].items()} == {"train": 12, "test": 4}
    assert list(StoredPairs(tmp_path / "toy", "train")) == list(toy_pairs(12, seed=3, split="train", size=32))
    assert (
        not facts["reused"]
        and json.loads((tmp_path / "toy" / "facts.json").read_text())["rejected"]["rows"] == 0
    )
    card = (tmp_path / "toy" / "README.md").read_text()
    assert "mgie prepare toy --seed 3 --count 12 --test 4 --size 32" in card
    assert facts["splits"]["test"]["sha256"] in card


def test_what_is_done_is_left_alone(tmp_path):
    arguments = {"seed": 1, "count": 5, "test": 2, "size": 32}
    first = prepare("toy", tmp_path / "toy", **arguments)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = prepare("toy", tmp_path / "toy", **arguments)
    assert again == first | {"reused": True}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(DataError, match="--seed 1 --count 5"):
        prepare("toy", tmp_path / "toy", **arguments | {"count": 6})
    assert (
        prepare("toy", tmp_path / "toy", **arguments | {"count": 6}, overwrite=True)["splits"]["train"][
            "rows"
        ]
        == 6
    )


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    one, two, other = (
        prepare("toy", tmp_path / n, seed=s, count=4, test=2) for n, s in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == two and one["splits"]["train"]["sha256"] != other["splits"]["train"]["sha256"]


def test_bad_wishes_are_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="'nonsense' is no source"):
        prepare("nonsense", tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be written"):
        prepare("toy", tmp_path / "file" / "x", count=2, test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
