import hashlib
import json
import pickle
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset

from llava_patch.folders import whole_folder
from mgie.data import shards
from mgie.data.shards import about_file, write_arrow
from mgie.data.stored_pairs import (
    FACTS,
    FORMATS,
    KIND,
    NEWER,
    StoredPairs,
    data_identity,
    read_facts,
    row_hash,
    to_row,
)
from mgie.data.verify import verify
from mgie.errors import DataError
from mgie.types import EditPair, Region


def write(out, pairs, split="train"):
    with whole_folder(out, kind=KIND) as folder:
        facts = write_arrow(((pair, (12, 12)) for pair in pairs), folder, split)
        (folder / FACTS).write_text(json.dumps({"format": FORMATS[-1], "splits": {split: asdict(facts)}}))
    return facts


def test_pairs_come_back_as_they_went(tmp_path, make_pair, make_picture):
    full = make_pair(
        1,
        mask=make_picture(seed=9),
        task="local",
        kind="recolour",
        session="s",
        turn=2,
        weight=0.5,
        meta={"ö": "1"},
        regions=(
            Region(phrase="a cat", box=(0.0, 0.25, 1.0, 0.5)),
            Region(phrase="a dog", mask=make_picture(seed=7), scales=(1.0, 0.5, 2.0)),
            Region(phrase="ein Hündchen", box=(0.0, 0.0, 0.5, 0.5), mask=make_picture(seed=8)),
        ),
        pictures=(make_picture(seed=5), make_picture(seed=6)),
        subjects=("olis toy", "hta corgi"),
    )
    pairs = [make_pair(0), full, make_pair(2, source=None, expressive="")]
    facts = write(tmp_path / "set", pairs)
    stored = StoredPairs(tmp_path / "set", "train")
    assert facts.rows == len(stored) == 3
    assert list(stored) == pairs
    assert pickle.loads(pickle.dumps(stored))[1] == full
    assert stored.lengths.tolist() == [len(pair.instruction + pair.expressive) for pair in pairs]
    assert stored.sides.tolist() == [[12, 12]] * 3 and stored.weights.tolist() == [1, 0.5, 1]
    assert stored.keys == ["pair-0", "pair-1", "pair-2"]
    with pytest.raises(IndexError):
        stored[3]


def test_datasets_opens_it_as_it_lies_and_shows_pictures(tmp_path, make_pair):
    write(tmp_path / "set", [make_pair()])
    (file,) = (tmp_path / "set" / "train").iterdir()
    rows = Dataset.from_file(str(file))
    assert rows[0]["source"].size == (12, 12) and rows[0]["mask"] is None


def test_shards_and_batches_change_nothing(tmp_path, make_pair, monkeypatch):
    pairs = [make_pair(index) for index in range(7)]
    whole = write(tmp_path / "one", pairs)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2500)
    monkeypatch.setattr(shards, "BATCH_ROWS", 2)
    split = write(tmp_path / "many", pairs)
    assert len(whole.shards) == 1 and len(split.shards) > 2
    assert split.sha256 == whole.sha256
    assert list(StoredPairs(tmp_path / "many", "train")) == pairs
    for shard in split.shards:
        data = (tmp_path / "many" / shard.file).read_bytes()
        assert len(data) == shard.bytes and hashlib.sha256(data).hexdigest() == shard.sha256


def test_the_hash_sees_every_column(tmp_path, make_pair):
    base = make_pair()
    others = {
        "expressive": "x",
        "mask": b"m",
        "source": None,
        "turn": 3,
        "weight": 2.0,
        "meta": {"a": "b"},
        "task": "t",
        "regions": (Region(phrase="a", box=(0.0, 0.0, 1.0, 1.0)),),
        "pictures": (b"m",),
        "subjects": ("a",),
    }
    hashes = {write(tmp_path / "base", [base]).sha256}
    hashes |= {
        write(tmp_path / name, [replace(base, **{name: value})]).sha256 for name, value in others.items()
    }
    masked = replace(base, regions=(Region(phrase="a", mask=b"m"),))
    other_mask = replace(base, regions=(Region(phrase="a", mask=b"n"),))
    hashes |= {write(tmp_path / name, [pair]).sha256 for name, pair in (("m", masked), ("n", other_mask))}
    assert len(hashes) == len(others) + 3


def test_the_hashes_of_pairs_without_the_newer_columns_stay():
    """Data sets and features that were made before are known by them."""
    pairs = [
        EditPair(key="a", instruction="go", source=b"1", target=b"2"),
        EditPair(key="b", instruction="go", target=b"2", expressive="so", kind="k", meta={"m": "n"}),
        EditPair(key="c", instruction="go", source=b"1", target=b"2", mask=b"3", session="s", turn=1),
    ]
    assert [row_hash(to_row(pair, (32, 32))).hex()[:16] for pair in pairs] == [
        "fecc6ae045191eaf", "a638c9ec9dfa56fc", "f362bfb2548128ab",
    ]  # fmt: skip


def test_a_data_set_of_format_1_still_opens(tmp_path, make_pair, make_picture):
    """As it was written: without the newer columns, with the library's own state beside the files."""
    pairs = [make_pair(0), make_pair(1, mask=make_picture(seed=9), meta={"a": "b"})]
    facts = write(tmp_path / "set", pairs)
    file = tmp_path / "set" / facts.shards[0].file
    older = pa.ipc.open_stream(file.read_bytes()).read_all().drop_columns(list(NEWER))
    with pa.ipc.new_stream(file, older.schema) as writer:
        writer.write_table(older)
    (file.parent / "state.json").write_text("{}")
    with pytest.raises(DataError, match="has other columns"):
        StoredPairs(tmp_path / "set", "train")
    about = asdict(replace(facts, shards=[about_file(tmp_path / "set", facts.shards[0].file, 2)]))
    (tmp_path / "set" / FACTS).write_text(json.dumps({"format": 1, "splits": {"train": about}}))
    assert list(StoredPairs(tmp_path / "set", "train")) == pairs
    assert verify(tmp_path / "set") and facts.sha256 == about["sha256"]


@pytest.mark.parametrize("number", [3, "2", None, [1]])
def test_a_format_of_later_is_one_sentence(tmp_path, make_pair, number):
    facts = write(tmp_path / "set", [make_pair()])
    (tmp_path / "set" / FACTS).write_text(json.dumps({"format": number, "splits": {"train": asdict(facts)}}))
    for opened in (read_facts, data_identity, verify, lambda folder: StoredPairs(folder, "train")):
        with pytest.raises(DataError, match=r"tells of format .*, expected 1 or 2: take the mgie that"):
            opened(tmp_path / "set")


def test_the_same_pairs_give_the_same_bytes(tmp_path, make_pair):
    for name in "ab":
        write(tmp_path / name, [make_pair(index) for index in range(3)])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 3
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, ZeroDivisionError])
def test_an_interrupt_leaves_nothing(tmp_path, make_pair, error):
    def broken():
        yield make_pair(), (12, 12)
        raise error

    with pytest.raises(error), whole_folder(tmp_path / "set", kind=KIND) as folder:
        write_arrow(broken(), folder, "train")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_data_set_says_so(tmp_path, make_pair):
    with pytest.raises(DataError, match="no data set"):
        StoredPairs(tmp_path, "train")
    with pytest.raises(DataError, match="no data set"):
        read_facts(tmp_path)
    write(tmp_path / "set", [make_pair()])
    with pytest.raises(DataError, match=r"no split 'dev'.*train"):
        StoredPairs(tmp_path / "set", "dev")
    (tmp_path / "set" / "train" / "data-00000.arrow").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        StoredPairs(tmp_path / "set", "train")
    (tmp_path / "set" / FACTS).write_text("{")
    with pytest.raises(DataError, match="expected what `mgie prepare` writes"):
        read_facts(tmp_path / "set")


def big_pairs(make_pair, count):
    """Pairs of two pictures of a megabyte each; nobody decodes them here."""
    for number in range(count):
        filler = bytes([number % 251]) * 1_000_000
        yield make_pair(0, key=f"k{number}", source=filler, target=filler + b"2"), (1, 1)


def test_memory_does_not_grow_with_the_data(tmp_path, make_pair, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_BYTES", 4_000_000)
    peaks = []
    for count in (10, 60):
        tracemalloc.start()
        shards.write_arrow(big_pairs(make_pair, count), tmp_path / str(count), "train")
        peaks.append((tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory()))
        tracemalloc.stop()
    small, large = peaks
    assert large[0] < small[0] + 2_000_000 and large[1] < small[1] + 2_000_000, peaks


def test_an_arrow_folder_is_read_where_it_lies(tmp_path, make_pair):
    facts = shards.write_arrow(big_pairs(make_pair, 40), tmp_path, "train")
    (tmp_path / FACTS).write_text(json.dumps({"format": FORMATS[-1], "splits": {"train": asdict(facts)}}))
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    places = [tmp_path, *([cache] if cache.exists() else [])]
    files = {path for place in places for path in place.rglob("*")}
    before = pa.total_allocated_bytes()
    pairs = StoredPairs(tmp_path, "train")
    assert pairs[39].target[:2] == bytes([39, 39]) and pairs[0].key == "k0" and len(pairs) == 40
    assert pa.total_allocated_bytes() - before < 1_000_000  # of 80 MB
    assert {path for place in places for path in place.rglob("*")} == files


def test_the_identity_is_of_the_rows(tmp_path, make_pair):
    for name, numbers in {"a": [0, 1], "b": [0, 1], "c": [1, 0]}.items():
        write(tmp_path / name, [make_pair(number) for number in numbers])
    write(tmp_path / "d", [make_pair(0), make_pair(1)], split="test")
    found = {name: data_identity(tmp_path / name) for name in "abcd"}
    assert found["a"] == found["b"] and len(set(found.values())) == 3
    for text in ("[]", "{}", '{"splits": {"train": 3}}', "[" * 100_000):
        (tmp_path / "a" / FACTS).write_text(text)
        with pytest.raises(DataError, match="prepare the data set again"):
            data_identity(tmp_path / "a")
    with pytest.raises(DataError, match="is no data set"):
        data_identity(tmp_path)
