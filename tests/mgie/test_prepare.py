import inspect
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import load_dataset
from docstring_parser import parse

import mgie
from mgie.data.captions import Spoken
from mgie.data.stored_features import StoredFeatures
from mgie.data.stored_pairs import StoredPairs
from mgie.errors import ConfigError, DataError, DeviceError
from mgie.prepare import check, outlook, prepare, table
from mgie.toy.pairs import ToyPairs


def test_toy_is_written_and_read_back(tmp_path):
    facts = prepare("toy", tmp_path / "toy", seed=3, count=12, test=4, size=128)
    assert {name: split["rows"] for name, split in facts["splits"].items()} == {"train": 12, "test": 4}
    assert list(StoredPairs(tmp_path / "toy", "train")) == list(ToyPairs(12, seed=3, size=128))
    assert (
        not facts["reused"]
        and json.loads((tmp_path / "toy" / "facts.json").read_text())["rejected"]["rows"] == 0
    )
    checked = check(tmp_path / "toy")
    assert (checked["pairs"], checked["whole"]) == (16, True) and checked["splits"] == facts["splits"]
    card = (tmp_path / "toy" / "README.md").read_text()
    assert "mgie prepare toy --seed 3 --count 12 --test 4 --size 128" in card
    assert facts["splits"]["test"]["sha256"] in card


def test_what_is_done_is_left_alone(tmp_path, capsys):
    arguments = {"seed": 1, "count": 5, "test": 2, "size": 64}
    first = prepare("toy", tmp_path / "toy", **arguments)
    assert capsys.readouterr().err == f"mgie: {tmp_path / 'toy'} is made from toy: 5 train, 2 test pairs.\n"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = prepare("toy", tmp_path / "toy", **arguments)
    told = "is complete: the same command made it, and nothing is read again."
    assert capsys.readouterr().err == f"mgie: {tmp_path / 'toy'} {told}\n"
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
    for device in ("cuda:99", "nowhere"):
        with pytest.raises(DeviceError, match=f"'{device}' cannot be used"):
            prepare("toy", tmp_path / "x", device=device)
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be written"):
        prepare("toy", tmp_path / "file" / "x", count=2, test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_features_of_a_recipe(tmp_path, capsys):
    arguments = {"count": 3, "test": 1, "size": 64, "store": "vae,clip", "model": "tiny"}
    facts = prepare("toy", tmp_path / "toy", **arguments)
    assert (
        set(facts["features"]["made_by"]) == {"vae", "clip"} and facts["features"]["precision"] == "float16"
    )
    assert table(facts).splitlines()[-1] == "stored features: vae, clip in float16"
    assert len(StoredFeatures(tmp_path / "toy", "train")) == 3
    assert f"features of all pairs are stored in {tmp_path / 'toy'}: vae, clip in float16." in (
        capsys.readouterr().err
    )
    again = prepare("toy", tmp_path / "toy", **arguments)
    assert again["reused"] and again["features"]["reused"]
    assert f"the features in {tmp_path / 'toy'} are of these pairs and parts, and stay." in (
        capsys.readouterr().err
    )
    other = prepare("toy", tmp_path / "toy", **arguments | {"precision": "float32", "store": "vae"})
    assert other["reused"] and not other["features"]["reused"]
    for wrong in ({"store": "vae"}, {"model": "tiny"}, {"store": "x", "model": "tiny"}):
        with pytest.raises(ConfigError):
            prepare("toy", tmp_path / "x", **wrong)
    with pytest.raises(ConfigError, match="--format arrow"):
        prepare("toy", tmp_path / "x", store="vae", model="tiny", format="parquet")


def test_every_option_is_explained():
    told = [entry.arg_name for entry in parse(prepare.__doc__ or "").params]
    assert told == list(inspect.signature(prepare).parameters)


def test_how_many_pairs_there_will_be_is_said_where_it_is_known(tmp_path):
    rows = [ToyPairs(1, seed=0)[0]] * 3
    told = outlook("toy", "out", {"train": rows, "dev": iter(rows), "test": rows[:1]}, None)
    assert told == "out is made from toy: 3 train, dev, 1 test pairs."
    voice = Spoken(tmp_path / "x", lambda _: [], made_by={}, batch_size=2)
    told = outlook("toy", "out", {"train": rows}, voice)
    assert "3 train pairs; a model reads and speaks of each, 0 texts are there from an earlier" in told


def test_too_many_rejects_leave_nothing(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"target": "none.png", "instruction": "go"}\n')
    with pytest.raises(DataError, match=r"none of 1 rows could be used \(missing partner 1\)"):
        prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "set")
    (tmp_path / "t.png").write_bytes(ToyPairs(1, seed=0)[0].target)
    good = '{"target": "t.png", "instruction": "go"}\n'
    (tmp_path / "rows.jsonl").write_text(good * 3 + '{"target": "none.png", "instruction": "go"}\n')
    with pytest.raises(DataError, match=r"1 of 4 rows .*--max_rejected 0\.01.*none\.png"):
        prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "set", test=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "t.png"]
    facts = prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "set", test=0, max_rejected=0.25)
    (row,) = [json.loads(line) for line in (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()]
    assert row["key"] == "rows-000004" and row["reason"] == "missing partner"
    lines = table(facts).splitlines()
    assert [line.split()[-1] for line in lines] == ["3", "1", "1"] and "missing partner" in lines[2]
    assert "missing partner: 1" in (tmp_path / "set" / "README.md").read_text()


@pytest.mark.parametrize("format", ["parquet", "legacy"])
def test_other_formats_hold_the_same_pairs(tmp_path, format):
    arrow = prepare("toy", tmp_path / "arrow", count=4, test=2, size=64)
    other = prepare("toy", tmp_path / "other", count=4, test=2, size=64, format=format)
    hashes = [{name: split["sha256"] for name, split in facts["splits"].items()} for facts in (arrow, other)]
    assert hashes[0] == hashes[1]
    for name in ("arrow", "other") if format == "parquet" else ("arrow",):
        rows = load_dataset(str(tmp_path / name), cache_dir=str(tmp_path / "cache" / name))
        assert {split: len(part) for split, part in rows.items()} == {"train": 4, "test": 2}
        assert rows["train"][0]["target"].size == (64, 64)


@pytest.mark.slow
def test_a_kill_costs_no_row_and_nothing_is_said_twice(tmp_path):
    """The real program, killed the hard way while a model speaks."""
    llava = Path(mgie.__file__).parent / "recipes" / "tiny_base" / "llava"
    arguments = {"count": 16, "test": 0, "express": f"llava:{llava}", "summarise": "none", "express_batch": 2}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "mgie", "prepare", "toy", "--out", str(tmp_path / "set"), *words]
    process = subprocess.Popen(command, cwd=Path(mgie.__file__).parents[1], stderr=subprocess.DEVNULL)

    def lines():
        return sum(path.read_bytes().count(b"\n") for path in tmp_path.glob(".set.express-*.jsonl"))

    while process.poll() is None and lines() <= 5:
        time.sleep(0.01)
    process.kill()
    process.wait()
    (noted,) = tmp_path.glob(".set.express-*.jsonl")
    made = noted.read_bytes().count(b"\n") - 1
    assert 4 < made < 16 and not (tmp_path / "set").exists()
    with noted.open("a") as file:
        file.write('{"key": "toy/')
    again = prepare("toy", tmp_path / "set", **arguments)
    alone = prepare("toy", tmp_path / "alone", **arguments)
    assert again["splits"] == alone["splits"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "set"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_, **__):
        yield ToyPairs(1, seed=0)[0]
        raise KeyboardInterrupt

    monkeypatch.setattr("mgie.data.sources.toy_world.ToyPairs", broken)
    with pytest.raises(KeyboardInterrupt):
        prepare("toy", tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def my_pairs(tmp_path):
    """Three pairs of one's own, with a table, and something else beside them."""
    for side in ("before", "after"):
        (tmp_path / "my_pairs" / side).mkdir(parents=True)
    for pair, name in zip(ToyPairs(3, seed=0, kinds=["recolour"]), "abc"):
        (tmp_path / "my_pairs" / "before" / f"{name}.png").write_bytes(pair.source)
        (tmp_path / "my_pairs" / "after" / f"{name}.png").write_bytes(pair.target)
    (tmp_path / "my_pairs" / "notes.txt").write_text("mine")
    (tmp_path / "my_pairs" / "instructions.csv").write_text(
        "file,instruction\na.png,go\nb.png,go\nc.png,go\n"
    )
    return tmp_path / "my_pairs"


def listing(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("out", ["my_pairs", "my_pairs/set", ".", "link", "my_pairs/../my_pairs", "link/set"])
def test_what_is_read_is_never_written(my_pairs, monkeypatch, out):
    monkeypatch.chdir(my_pairs.parent)
    Path("link").symlink_to("my_pairs")
    before = listing(my_pairs.parent)
    for source in ("pairs:my_pairs", "ipr2pr:my_pairs", "magicbrush:link", "legacy:my_pairs"):
        with pytest.raises(ConfigError, match="what is read must not be written"):
            prepare(source, out, test=0, overwrite=True)
    for options in ({"express": "llava:my_pairs"}, {"store": "vae", "model": "my_pairs"}):
        with pytest.raises(ConfigError, match=f"is {'--express' if 'express' in options else '--model'}, "):
            prepare("toy", out, count=2, test=0, overwrite=True, **options)
    assert listing(my_pairs.parent) == before


def test_only_what_was_written_here_is_replaced(my_pairs):
    """The folder of a data set, a photograph put into it, and files in it that rows and options name."""
    tmp_path, out = my_pairs.parent, my_pairs.parent / "set"
    prepare(f"pairs:{my_pairs}", out, test=0)
    prepare(f"pairs:{my_pairs}", out, test=0, overwrite=True)
    before = listing(tmp_path)
    with pytest.raises(ConfigError, match="what is read must not be written"):
        prepare(f"pairs:{out}", out, overwrite=True)
    photo = out / "photo.png"
    photo.write_bytes((my_pairs / "after" / "a.png").read_bytes())
    (tmp_path / "x.jsonl").write_text(json.dumps({"target": str(photo), "instruction": "go"}) + "\n")
    (out / "x.jsonl").write_text(json.dumps({"target": "photo.png", "instruction": "go"}) + "\n")
    (out / "said.json").write_text("{}")
    for source, express in (
        (f"pairs:{my_pairs}", None),
        (f"pairs:{tmp_path / 'x.jsonl'}", None),
        (f"pairs:{out / 'x.jsonl'}", None),
        ("toy", f"file:{out / 'said.json'}"),
        ("toy", "llava:/nowhere"),  # and no model is looked for
    ):
        with pytest.raises(ConfigError, match=r"was not written with it|must not be written"):
            prepare(source, out, test=0, express=express, overwrite=True)
    after = listing(tmp_path)
    assert all(after[path] == data for path, data in before.items())
    assert {path.name for path in after.keys() - before.keys()} == {"photo.png", "x.jsonl", "said.json"}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match="was not written here"):
        prepare("toy", tmp_path / "photos", count=2, test=0, overwrite=True)
    assert (tmp_path / "photos" / "one.png").read_bytes() == b"x"


def test_a_changed_source_is_noticed(my_pairs):
    out, source = my_pairs.parent / "set", f"pairs:{my_pairs}"
    first = prepare(source, out, test=0)
    again = prepare(source, out, test=0)
    assert again["reused"] and table(again) == table(first)
    for side in ("before", "after"):  # a fourth pair, which the table does not name
        (my_pairs / side / "d.png").write_bytes((my_pairs / side / "a.png").read_bytes())
    with pytest.raises(DataError, match=r"changed since .*8 files then, 10 now"):
        prepare(source, out, test=0)
    for side in ("before", "after"):
        (my_pairs / side / "d.png").unlink()
    assert prepare(source, out, test=0)["reused"]
    (my_pairs / "after" / "b.png").write_bytes((my_pairs / "after" / "c.png").read_bytes())
    with pytest.raises(DataError, match=r"the same number of files, but not .*--overwrite"):
        prepare(source, out, test=0)
    other = prepare(source, out, test=0, overwrite=True)
    assert other["splits"]["train"]["sha256"] != first["splits"]["train"]["sha256"]
    my_pairs.rename(my_pairs.parent / "elsewhere")  # nothing to look at: the set stays usable
    assert prepare(source, out, test=0)["reused"]


def test_pictures_elsewhere_and_given_texts_belong_to_the_source(my_pairs, tmp_path):
    path, said = tmp_path / "x.jsonl", tmp_path / "said.json"
    path.write_text(json.dumps({"key": "k", "target": "my_pairs/after/a.png", "instruction": "go"}) + "\n")
    said.write_text('{"k": "It goes."}')
    arguments = {"out": tmp_path / "set", "test": 0, "express": f"file:{said}"}
    prepare(f"pairs:{path}", **arguments)
    assert prepare(f"pairs:{path}", **arguments)["reused"]
    picture = my_pairs / "after" / "a.png"
    for file, data in ((said, b'{"k": "It went."}'), (picture, (my_pairs / "after" / "b.png").read_bytes())):
        file.write_bytes(data)
        with pytest.raises(DataError, match="has changed since"):
            prepare(f"pairs:{path}", **arguments)
        prepare(f"pairs:{path}", **arguments, overwrite=True)
    path.unlink()  # what is gone cannot have changed
    assert prepare(f"pairs:{path}", **arguments)["reused"]


def test_two_at_once_the_second_is_refused(tmp_path, monkeypatch):
    """Two processes on one folder: one sentence for the second, a whole data set by the first."""
    slow = iter(ToyPairs(3, seed=0))

    def waiting(*_, **__):
        yield next(slow)
        (tmp_path / "writes").touch()
        while not (tmp_path / "go on").exists():
            time.sleep(0.01)
        yield from slow

    arguments = {"count": 3, "test": 0, "size": 64, "progress": False}
    first = multiprocessing.get_context("fork").Process(
        target=prepare, args=("toy", tmp_path / "set"), kwargs=arguments
    )
    with monkeypatch.context() as patch:
        patch.setattr("mgie.data.sources.toy_world.ToyPairs", waiting)
        first.start()
    try:
        while first.is_alive() and not (tmp_path / "writes").exists():
            time.sleep(0.01)
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match=rf"is in use by process {first.pid} on .* since "):
                prepare("toy", tmp_path / "set", overwrite=overwrite, **arguments)
    finally:
        (tmp_path / "go on").touch()
        first.join(60)
    assert first.exitcode == 0 and check(tmp_path / "set")["pairs"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["go on", "set", "writes"]
