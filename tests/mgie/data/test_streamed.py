import json
from collections import Counter

import pytest
import torch

from mgie.data import shards
from mgie.data.batches import Batches
from mgie.data.sources import tables
from mgie.data.streamed import StreamedPairs
from mgie.errors import ConfigError, DataError
from mgie.prepare import prepare
from mgie.tokens import IGNORE
from mgie.types import Example


class Builder:
    pad_id = 0

    def together(self, _extras, _mask):
        return {}

    def __call__(self, pair, _):
        return Example(
            input_ids=torch.arange(4), labels=torch.full((4,), IGNORE), read_at=torch.tensor([1, 2]),
            clip_pixels=torch.zeros(1, 3, 2, 2), source=torch.zeros(3, 2, 2), has_source=True,
            target=torch.zeros(3, 2, 2), key=pair.key,
        )  # fmt: skip


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Twenty-three pairs in several Parquet files."""
    monkeypatch.setattr(shards, "BATCH_ROWS", 4)
    monkeypatch.setattr(shards, "SHARD_BYTES", 12_000)
    facts = prepare("toy", tmp_path / "hub", count=23, test=2, size=64, format="parquet")
    assert len(facts["splits"]["train"]["shards"]) > 3
    return str(tmp_path / "hub")


def batches(hub, window=6, stream=None, **changes):
    settings = {"seed": 3, "batch_size": 6, "micro_batch_size": 1} | changes
    stream = StreamedPairs(hub, window=window) if stream is None else stream
    return Batches(stream, Builder(), **settings)


def take(data, count, start=0):
    steps = data.steps(start)
    return [[key for micro in next(steps) for key in micro.keys] for _ in range(count)]


def test_every_pair_once_per_epoch_in_a_new_order(hub):
    seen = [key for step in take(batches(hub), 23) for key in step]
    epochs = [seen[start : start + 23] for start in range(0, 138, 23)]
    assert all(set(Counter(epoch).values()) == {1} for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert take(batches(hub), 5) == take(batches(hub), 5) != take(batches(hub, seed=4), 5)
    assert batches(hub).epoch == len(StreamedPairs(hub)) == 23


@pytest.mark.parametrize(("world", "micro", "workers"), [(2, 1, 1), (3, 2, 1), (1, 6, 3)])
def test_the_order_knows_no_world(hub, world, micro, workers):
    plain = take(batches(hub), 8)
    ranks = [
        take(batches(hub, rank=rank, world=world, micro_batch_size=micro, workers=workers), 8)
        for rank in range(world)
    ]
    assert [[key for rank in ranks for key in rank[step]] for step in range(8)] == plain
    steps = batches(hub, rank=1, world=2).steps()
    assert [batch.positions for batch in next(steps)] == [(3,), (4,), (5,)]


@pytest.fixture
def silent(monkeypatch):
    """As a hub, which does not tell how many rows its files have."""
    plain = tables.file_rows
    monkeypatch.setattr(tables, "file_rows", lambda *about: [None] * len(plain(*about)))


@pytest.mark.parametrize(
    "samples", [0, 24, 60, *(pytest.param(at, marks=pytest.mark.slow) for at in (6, 18, 42))]
)
def test_going_on_is_exact_whatever_is_known_of_the_files(hub, samples, tmp_path, request):
    plain = take(batches(hub), 16)
    wanted = plain[samples // 6 : samples // 6 + 4]
    assert take(batches(hub), 4, samples) == wanted
    request.getfixturevalue("silent")
    assert take(batches(hub), 4, samples) == wanted
    memory = tmp_path / "notes" / "stream.json"
    take(batches(hub, stream=StreamedPairs(hub, window=6, memory=memory)), samples // 6)
    assert samples < 24 or None not in json.loads(memory.read_text())
    assert take(batches(hub, stream=StreamedPairs(hub, window=6, memory=memory)), 4, samples) == wanted


@pytest.fixture
def read(monkeypatch):
    """Numbers of the rows that are read and of those that are made into pairs."""
    counts, rows, pair = Counter(), tables.told, StreamedPairs._pair

    def counted(tables_of_rows, where):
        for table in rows(tables_of_rows, where):
            counts["read"] += getattr(table, "num_rows", 0)
            yield table

    monkeypatch.setattr(tables, "told", counted)
    monkeypatch.setattr(StreamedPairs, "_pair", lambda *row: counts.update(made=1) or pair(*row))
    return counts


def test_nothing_is_read_that_came_before(hub, read):
    take(batches(hub), 1, 6 * 23)
    assert read["read"] < 20  # windows of six, and a little more at the borders of files


@pytest.mark.usefixtures("silent")
def test_what_was_noted_spares_reading(hub, read, tmp_path):
    memory = tmp_path / "stream.json"
    take(batches(hub, stream=StreamedPairs(hub, window=6, memory=memory)), 5)
    for text, few in ((memory.read_text(), True), ("[3]", False), ("{", False), ('{"0": 3}', False)):
        memory.write_text(text)
        read.clear()
        stream = StreamedPairs(hub, window=6, memory=memory, notes=False)
        take(batches(hub, stream=stream), 1, 24)
        assert (read["read"] < 20) == few and memory.read_text() == text


def test_each_process_makes_pairs_of_its_own_rows_alone(hub, read):
    take(batches(hub, rank=1, world=2), 4)
    assert read["made"] in (12, 13) and read["read"] >= 23


def test_other_columns(parquet_like):
    data = Batches(StreamedPairs(parquet_like), Builder(), seed=0, batch_size=2, micro_batch_size=2)
    assert sorted(key for step in take(data, 2) for key in step) == [f"ipr2pr-{k:07d}" for k in range(4)]


@pytest.fixture
def parquet_like(tmp_path, make_picture):
    from datasets import Dataset, Features, Image, Value

    rows = [
        {"original_image": {"bytes": make_picture(seed=k), "path": None}, "edit_prompt": "go",
         "edited_image": {"bytes": make_picture(seed=k + 9), "path": None}}
        for k in range(4)
    ]  # fmt: skip
    (tmp_path / "ip2p").mkdir()
    features = Features({"original_image": Image(), "edit_prompt": Value("string"), "edited_image": Image()})
    Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "ip2p" / "train-0.parquet"))
    return str(tmp_path / "ip2p")


def test_wishes_that_cannot_work(hub, tmp_path):
    with pytest.raises(DataError, match="no split 'dev'"):
        StreamedPairs(hub, split="dev")
    with pytest.raises(ConfigError, match="cannot be split"):
        batches(hub, world=4)
    with pytest.raises(ConfigError, match="multiple of the batch size 6"):
        next(batches(hub).steps(5))
    from datasets import Dataset

    (tmp_path / "text").mkdir()
    Dataset.from_list([{"a": 1}]).to_parquet(str(tmp_path / "text" / "train-0.parquet"))
    with pytest.raises(DataError, match="has the columns a"):
        StreamedPairs(str(tmp_path / "text"))
