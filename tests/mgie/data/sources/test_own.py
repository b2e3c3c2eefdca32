import json
import os

import pytest

from mgie.data.sources import open_source
from mgie.data.sources.base import Options
from mgie.data.sources.own import pictures
from mgie.data.streamed import StreamedPairs
from mgie.data.validation import Gate, Rejected
from mgie.data.verify import verify
from mgie.errors import ConfigError, DataError
from mgie.prepare import prepare
from mgie.types import EditPair, Region


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
        "regions": [
            {"box": [0, 0, 1, 0.5], "phrase": "a cat"},
            {"mask": "m.png", "phrase": "a dog", "scales": [1, 0, 2]},
        ],
        "pictures": ["before/b.jpg", "after/c.png"],
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
        first.regions
        == (
            Region(phrase="a cat", box=(0.0, 0.0, 1.0, 0.5)),
            Region(phrase="a dog", mask=make_picture(seed=3), scales=(1.0, 0.0, 2.0)),
        )
        and first.pictures
        == ((folder / "before" / "b.jpg").read_bytes(), (folder / "after" / "c.png").read_bytes())
        and first.subjects == ("dog",)
        and first.meta == {"author": "me"}
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
        ROW | {"source": {}},
        ROW | {"mask": []},
        ROW | {"key": False},
        ROW | {"regions": {}},
        ROW | {"regions": ["cat"]},
        ROW | {"regions": [{"box": [0, 0, 1, 1]}]},
        ROW | {"regions": [{"phrase": "a", "text": "b"}]},
        ROW | {"regions": [{"phrase": "a", "box": [0, 0, 1]}]},
        ROW | {"regions": [{"phrase": "a", "box": [0, 0, 1, 10**400]}]},
        ROW | {"regions": [{"phrase": "a", "mask": 3}]},
        ROW | {"pictures": "a.png"},
        ROW | {"pictures": [3]},
        ROW | {"subjects": "dog"},
        ROW | {"subjects": [{}]},
    ],
)
def test_bad_lines_are_told(lines, row):
    good, bad = rows(lines(ROW, row))
    assert isinstance(good, EditPair) and bad.reason == "bad row" and "line 2 of mine.jsonl" in bad.detail


def test_pictures_of_regions_and_instructions_are_read_and_known(lines, folder, tmp_path):
    region = {"phrase": "a cat", "mask": "before/b.jpg"}
    where = lines(ROW | {"instruction": "<image>, please", "pictures": ["before/c.jpg"], "regions": [region]})
    assert {path.name for path in pictures(str(where))} == {"a.jpg", "a.png", "b.jpg", "c.jpg"}
    facts = prepare(f"pairs:{where}", tmp_path / "set", test=0)
    again = prepare(f"pairs:{tmp_path / 'set'}", tmp_path / "hub", format="parquet")
    third = prepare(f"pairs:{tmp_path / 'hub'}", tmp_path / "third")
    assert len({each["splits"]["train"]["sha256"] for each in (facts, again, third)}) == 1
    assert verify(tmp_path / "hub")
    _, streamed = next(StreamedPairs(str(tmp_path / "hub")).placed(0, seed=0, wanted=bool))
    assert rows(tmp_path / "third") == rows(tmp_path / "hub") == [streamed]
    assert streamed.regions[0].mask == (folder / "before" / "b.jpg").read_bytes()
    for change in ({"pictures": ["none.png"]}, {"regions": [region | {"mask": "none.png"}]}):
        (bad,) = rows(lines(ROW | change))
        assert bad.reason == "missing partner"
    with pytest.raises(DataError, match="pictures is the address"):
        rows(lines(ROW | {"pictures": ["http://x.org/a.png"]}))


def test_names_with_signs_that_patterns_have(folder):
    for name in ("photo[1]", "what*"):
        (folder / "before" / "a.jpg").rename(folder / "before" / f"{name}.jpg")
        (folder / "after" / "a.png").rename(folder / "after" / f"{name}.png")
        found = table(folder, f'file,instruction\n"{name}.jpg",go\nb.jpg,go\nc.jpg,go\n')
        assert [getattr(row, "reason", row.key) for row in found] == [name, "b", "c"]
        (folder / "before" / f"{name}.jpg").rename(folder / "before" / "a.jpg")
        (folder / "after" / f"{name}.png").rename(folder / "after" / "a.png")


def test_what_names_no_picture_is_no_part_of_the_source(lines):
    where = lines(ROW, ROW | {"mask": {}}, ROW | {"source": [1]})
    assert {path.name for path in pictures(str(where))} == {"a.jpg", "a.png"}


def test_missing_pictures_are_told(lines):
    found = rows(lines(ROW | {"target": "gone.png"}, ROW | {"source": "a\0b"}, ROW | {"target": "x" * 5000}))
    assert [row.reason for row in found] == ["missing partner"] * 3


def test_the_task_is_told_by_what_is_there(lines):
    shown = {"instruction": "a <image>", "pictures": ["before/b.jpg"]}
    new = {name: value for name, value in ROW.items() if name != "source"}
    found = rows(lines(ROW, ROW | shown, new | shown, new, ROW | shown | {"task": "local"}))
    assert [pair.task for pair in found] == ["edit", "subject_edit", "subject", "subject", "local"]


def test_addresses_are_refused(lines):
    with pytest.raises(DataError, match=r"line 2 of mine\.jsonl: source is the address .* download it first"):
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
    facts = prepare("toy", tmp_path / "a", count=5, test=2, size=64, format=form)
    again = prepare(f"pairs:{tmp_path / 'a'}", tmp_path / "b")
    assert {name: split["sha256"] for name, split in again["splits"].items()} == {
        name: split["sha256"] for name, split in facts["splits"].items()
    }
    assert len(rows(tmp_path / "a", count=3)) == 3


def test_a_prepared_data_set_may_have_no_pairs_to_learn_from(tmp_path, make_picture):
    line = {"source": "a.png", "target": "a.png", "instruction": "make it red", "split": "test"}
    (tmp_path / "a.png").write_bytes(make_picture())
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    prepare(f"pairs:{tmp_path / 'a.jsonl'}", tmp_path / "a")
    again = prepare(f"pairs:{tmp_path / 'a'}", tmp_path / "b", count=3)
    assert list(again["splits"]) == ["test"]


def table(folder, text, **options):
    (folder / "instructions.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return rows(folder, **options)


@pytest.mark.parametrize(
    "header", ["file,prompt", "image,edit", "Picture;Instructions", "FILENAME\tText", "edit,image"]
)
def test_other_names_of_the_columns(folder, header):
    turned = header.startswith("edit")
    lines = [f"go {name},{name}.jpg" if turned else f"{name}.jpg,go {name}" for name in "abc"]
    text = "\n".join([header, *lines])
    delimiter = next(mark for mark in ";\t," if mark in header)
    found = table(folder, text.replace(",", delimiter))
    assert [(pair.key, pair.instruction) for pair in found] == [(name, f"go {name}") for name in "abc"]


@pytest.mark.parametrize("header", ["picture,words", "a,go", "instruction", "Datei,Anweisung"])
def test_a_header_that_is_not_understood_is_no_row(folder, header):
    with pytest.raises(DataError, match=r"has the columns .* expected at least file and instruction"):
        table(folder, f"{header}\na.jpg,go\n")


def test_letters_are_kept_or_refused(folder):
    text = "file,instruction\na.jpg,café\n"
    for encoding in ("utf-8", "utf-8-sig"):
        assert table(folder, text.encode(encoding))[0].instruction == "café"
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        with pytest.raises(DataError, match=r'instructions\.csv is no UTF-8 \(line \d\).*"CSV UTF-8"'):
            table(folder, text.encode(encoding))


def test_cells_of_several_lines_and_cells_without_end(folder):
    found = table(folder, 'file,instruction\r\na.jpg,"make it red\nand ""big"""\r\nb.jpg,go\r\nc.jpg,go\r\n')
    assert [pair.instruction for pair in found] == ['make it red\nand "big"', "go", "go"]
    bad = table(folder, 'file,instruction\na.jpg,say ""hello"""\nb.jpg,go\nc.jpg,go\n')[0]
    assert isinstance(bad, Rejected) and "doubled quotes" in bad.detail
    for cell in ('"make it red', '"' + "x" * 200_000 + '"', "x" * 200_000):
        with pytest.raises(
            DataError, match=r"cannot be read near line \d+ .*not closed, or a very long text"
        ):
            table(folder, f"file,instruction\na.jpg,{cell}\nb.jpg,go\n")


def test_several_instructions_of_one_picture(folder):
    (folder / "before" / "a.png").write_bytes((folder / "before" / "a.jpg").read_bytes())
    found = table(
        folder, "file,instruction\na.jpg,one\na.jpg,two\na.png,one\na.jpg,two\nb.jpg,go\nc.jpg,go\n"
    )
    assert [row.key for row in found] == ["a", "a-2", "a-3", "a-2", "b", "c"]
    named = list(Gate()(found))
    assert [pair.key for pair, _ in named] == ["a", "a-2", "a-3", "b", "c"]
    found = table(folder, "file,instruction,key\na.jpg,one,k\na.jpg,two,k\n")
    assert [row.key for row in found[:2]] == ["k", "k"]
    gate = Gate()
    assert len(list(gate(found[:2]))) == 1 and gate.counts == {"duplicate key": 1}


def test_splits_are_three_whatever_they_are_called(folder, tmp_path):
    text = "file,instruction,split\na.jpg,go,Train\nb.jpg,go, TEST\nc.jpg,go,Validation\n"
    (folder / "instructions.csv").write_text(text)
    found = open_source(f"pairs:{folder}", Options())
    assert {split: [row.key for row in part] for split, part in found.items()} == {
        "train": ["a"], "test": ["b"], "dev": ["c"],
    }  # fmt: skip
    inside = sorted(path.name for path in tmp_path.iterdir())
    for split in ("../../x", str(tmp_path / "x"), "..", "x\ny", "nul", "features", "a/b"):
        (folder / "instructions.csv").write_text(f'file,instruction,split\na.jpg,go,"{split}"\nb.jpg,go,\n')
        (bad,) = [row for row in rows(folder) if row.key.startswith("row 2")]
        assert bad.reason == "bad split" and "expected train, dev or test" in bad.detail
        with pytest.raises(DataError, match="bad split 1"):
            prepare(f"pairs:{folder}", tmp_path / "set", test=0)
        assert sorted(path.name for path in tmp_path.iterdir()) == inside


@pytest.mark.parametrize("file", ["../after/a.png", "{folder}/before/a.jpg", "x/../a.jpg", "a\x07.jpg"])
def test_files_of_the_table_lie_in_their_folder(folder, file):
    bad = table(folder, f"file,instruction\n{file.format(folder=folder)},go\n")[0]
    assert bad.reason == "bad row" and "in before/" in bad.detail


def test_only_files_are_read(lines, folder):
    os.mkfifo(folder / "before" / "pipe.jpg")  # who reads it waits for ever
    found = rows(
        lines(ROW | {"source": "before/pipe.jpg"}, ROW | {"target": "/dev/zero"}, ROW | {"mask": "before"})
    )
    assert [row.reason for row in found] == ["missing partner"] * 3
    assert all("it is no file" in row.detail for row in found)
    (folder / "instructions.csv").unlink()
    os.mkfifo(folder / "instructions.csv")
    with pytest.raises(DataError, match="is neither"):
        rows(folder)


def test_bytes_that_are_no_text_set_their_row_aside(lines, tmp_path):
    path = lines(ROW, ROW, ROW)
    path.write_bytes(path.read_bytes().replace(b'"go"', b'"\xe9t\xe9"', 1))
    facts = prepare(f"pairs:{path}", tmp_path / "set", test=0, max_rejected=0.5)
    assert facts["rejected"]["reasons"] == {"bad text": 1}
    with pytest.raises(DataError, match="bad text 1") as caught:
        prepare(f"pairs:{path}", tmp_path / "other", test=0)
    str(caught.value).encode()  # can be printed


def test_masks_and_layouts_lie_beside_the_pictures(folder, make_picture):
    for name in ("masks", "layouts"):
        (folder / name).mkdir()
    (folder / "masks" / "a.png").write_bytes(make_picture(seed=9))
    (folder / "layouts" / "cup.png").write_bytes(make_picture(seed=8))
    told = [{"phrase": "a red cup", "box": [0, 0, 0.5, 1]}, {"phrase": "a spoon", "mask": "cup.png"}]
    (folder / "layouts" / "a.json").write_text(json.dumps(told))
    (folder / "layouts" / "b.json").write_text('[{"phrase": "a"')
    found = {row.key: row for row in rows(folder)}
    assert found["a"].mask == make_picture(seed=9)
    assert found["a"].regions == (
        Region(phrase="a red cup", box=(0.0, 0.0, 0.5, 1.0)),
        Region(phrase="a spoon", mask=make_picture(seed=8)),
    )
    assert found["c"].mask is None and not found["c"].regions
    (wrong,) = (row for row in found.values() if isinstance(row, Rejected))
    assert wrong.reason == "bad row" and "b.json is no JSON" in wrong.detail


def test_a_line_may_name_a_file_of_regions(lines, folder, make_picture):
    (folder / "layouts").mkdir()
    (folder / "layouts" / "cup.png").write_bytes(make_picture(seed=8))
    (folder / "layouts" / "a.json").write_text('[{"phrase": "a spoon", "mask": "cup.png"}]')
    (pair,) = rows(lines(ROW | {"regions": "layouts/a.json"}))
    assert pair.regions == (Region(phrase="a spoon", mask=make_picture(seed=8)),)
    (wrong,) = rows(lines(ROW | {"regions": "none.json"}))
    assert isinstance(wrong, Rejected) and "there are no regions" in wrong.detail
