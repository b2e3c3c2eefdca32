import json

import pytest

from mgie.data.sources import open_source
from mgie.data.sources.base import Options
from mgie.errors import ConfigError, DataError
from mgie.prepare import prepare
from mgie.types import EditPair


def rows(where, split="train", **options):
    return list(open_source(f"pairs:{where}", Options(**({"test": 0} | options)))[split])


@pytest.fixture
def folder(tmp_path, make_picture):
    for side in ("before", "after"):
        (tmp_path / "own" / side).mkdir(parents=True)
    for name in "abc":
        (tmp_path / "own" / "before" / f"{name}.jpg").write_bytes(make_picture(seed=ord(name), form="JPEG"))
        (tmp_path / "own" / "after" / f"{name}.png").write_bytes(make_picture(seed=ord(name) + 1))
    (tmp_path / "own" / "instructions.csv").write_text(
        'file,instruction\na.jpg,"make it red, please"\nb.jpg,remove\nc.jpg,add\n'
    )
    return tmp_path / "own"


@pytest.fixture
def lines(folder):
    def write(*rows, name="mine.jsonl"):
        text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        (folder / name).write_text(text)
        return folder / name

    return write


ROW = {"source": "before/a.jpg", "target": "after/a.png", "instruction": "go"}


def test_a_folder_with_a_table(folder):
    found = rows(folder)
    assert [(pair.key, pair.instruction) for pair in found] == [
        ("a", "make it red, please"),
        ("b", "remove"),
        ("c", "add"),
    ]
    assert found[0].source == (folder / "before" / "a.jpg").read_bytes()
    assert found[0].target == (folder / "after" / "a.png").read_bytes()
    assert [pair.key for pair in rows(folder, "test", test=1)] == ["c"]


@pytest.mark.parametrize(
    "table",
    [
        "a.jpg,go\nb.jpg,go\nc.jpg,go\n",
        "Instruction;File;Expressive\ngo;a.jpg;It goes\ngo;b.jpg;\ngo;c.jpg;x\n",
        "\ufeffimage\tinstruction\na.jpg\tgo\nb.jpg\tgo\nc.jpg\tgo\n",
    ],
)
def test_other_ways_to_write_the_table(folder, table):
    (folder / "instructions.csv").write_text(table)
    assert [(pair.key, pair.instruction) for pair in rows(folder)] == [("a", "go"), ("b", "go"), ("c", "go")]


def test_rows_of_the_table_that_are_wrong(folder):
    (folder / "after" / "b.png").unlink()
    (folder / "instructions.csv").write_text("file,instruction\na.jpg\nb.jpg,go\nnone.jpg,go\n")
    reasons = {row.key: row.reason for row in rows(folder)}
    assert reasons == {
        "row 2 of instructions.csv": "bad row",
        "b": "missing partner",
        "none": "missing partner",
        "a.jpg": "no instruction",
        "c.jpg": "no instruction",
    }
    (folder / "instructions.csv").write_text("instruction,other\na,b\n")
    with pytest.raises(DataError, match="expected at least file and instruction"):
        rows(folder)


def test_json_lines_with_everything(lines, folder, make_picture):
    (folder / "m.png").write_bytes(make_picture(seed=3))
    full = ROW | {
        "key": "mine",
        "expressive": "It goes.",
        "mask": "m.png",
        "task": "local",
        "kind": "go",
        "weight": 2,
        "regions": [{"box": [0, 0, 1, 1], "text": "it"}],
        "subjects": ["dog"],
        "author": "me",
        "session": "s",
        "turn": 1,
    }
    first, second, third = rows(
        lines(full, "", ROW | {"source": None}, ROW | {"source": str(folder / "before" / "b.jpg")})
    )
    assert (
        first.key == "mine"
        and first.weight == 2.0
        and first.mask == make_picture(seed=3)
        and first.task == "local"
    )
    assert (
        json.loads(first.meta["regions"])[0]["text"] == "it"
        and first.meta["author"] == "me"
        and first.turn == 1
    )
    assert second.source is None and second.key == "mine-000003"
    assert third.source == (folder / "before" / "b.jpg").read_bytes()


def test_splits_of_the_user_win(lines):
    path = lines(ROW, ROW | {"split": "test", "key": "t"}, ROW | {"split": "train"})
    assert len(rows(path)) == 2 and [pair.key for pair in rows(path, "test")] == ["t"]


@pytest.mark.parametrize(
    "row",
    [
        "{",
        "[1]",
        {"target": "after/a.png"},
        ROW | {"instruction": 3},
        ROW | {"weight": "x"},
        ROW | {"source": 3},
    ],
)
def test_bad_lines_are_told(lines, row):
    good, bad = rows(lines(ROW, row))
    assert isinstance(good, EditPair) and bad.reason == "bad row" and "line 2 of mine.jsonl" in bad.detail


def test_missing_pictures_are_told(lines):
    found = rows(lines(ROW | {"target": "gone.png"}, ROW | {"source": "a\0b"}, ROW | {"target": "x" * 5000}))
    assert [row.reason for row in found] == ["missing partner"] * 3


def test_links_are_refused(lines):
    with pytest.raises(DataError, match=r"line 2 of mine\.jsonl: source is the link .* download it first"):
        rows(lines(ROW, ROW | {"source": "https://x.org/a.jpg"}))


def test_a_misspelt_field_is_told(lines):
    _, bad = rows(lines(ROW, ROW | {"expresive": "x"}))
    assert bad.reason == "unknown field" and "did you mean 'expressive'" in bad.detail


def test_what_is_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"see docs/data\.md"):
        rows(tmp_path)
    for source in ("pairs", "pairs:", "toy:", "other:x"):
        with pytest.raises(ConfigError, match="is no source"):
            open_source(source, Options())
    with pytest.raises(ConfigError, match=r"no kind of edit \['x'\]"):
        next(iter(open_source("toy:x", Options())["train"]))


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_a_prepared_data_set_can_be_read_again(tmp_path, form):
    facts = prepare("toy", tmp_path / "a", count=5, test=2, size=32, format=form)
    again = prepare(f"pairs:{tmp_path / 'a'}", tmp_path / "b")
    assert {name: split["sha256"] for name, split in again["splits"].items()} == {
        name: split["sha256"] for name, split in facts["splits"].items()
    }
    assert len(rows(tmp_path / "a", count=3)) == 3
