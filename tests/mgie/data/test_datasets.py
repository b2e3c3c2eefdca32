"""What a recipe can say of its data: mixtures, buckets, streams, stored features."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mgie.build import build_editor
from mgie.build_data import build_batches
from mgie.config import DataConfig, dump_run, load_run
from mgie.data import examples, shards, streamed
from mgie.data.datasets import identity, open_sets
from mgie.data.orders import OrderConfig
from mgie.data.sources import tables
from mgie.data.stored_pairs import StoredPairs
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.prepare import prepare
from mgie.train import train


@pytest.fixture(scope="session")
def other_data(tmp_path_factory):
    """A second, smaller data set of the toy world."""
    folder = tmp_path_factory.mktemp("data") / "other"
    prepare("toy", folder, seed=4, count=10, test=2, size=64, progress=False)
    return folder


@pytest.fixture(scope="session")
def parts():
    return build_editor(load_run("tiny", ["--data.path", "nowhere"]))


@pytest.fixture
def read(tiny_run, parts):
    """Batches of a recipe with these changes."""

    def make(*overrides, rank=0, world=1, editor=None):
        return build_batches(tiny_run(*overrides), parts.prompts, rank=rank, world=world, editor=editor)

    return make


def keys(batches, stop, start=0):
    return [key for step in batches.steps(start, stop) for micro in step for key in micro.keys]


def test_a_plain_recipe_reads_as_before(read, toy_data):
    batches = read()
    assert batches.epoch == 48
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([0, 0]))).permutation(48)
    stored = StoredPairs(toy_data, "train")
    assert keys(batches, 16) == [stored.keys[index] for index in order[:16]]


def test_a_mixture_keeps_its_shares_for_every_world_and_after_a_resume(read, toy_data, other_data):
    mixed = f"--data.mixture={{'{toy_data}': 0.75, '{other_data}': 0.25}}"
    batches = read(mixed)
    count = Counter(batches.order.take(0, 1000).tolist())  # the first 48 numbers are those of `toy_data`
    assert sum(times for number, times in count.items() if number < 48) == 750
    assert {count[number] for number in range(48, 58)} == {25}  # ten pairs, 250 places
    plain = keys(batches, 80)
    names = [*StoredPairs(toy_data, "train").keys, *StoredPairs(other_data, "train").keys]
    assert plain == [names[number] for number in batches.order.take(0, 80)]
    assert keys(read(mixed), 80, start=40) == plain[40:]
    ranks = [read(mixed, "--train.micro_batch_size=2", rank=rank, world=2) for rank in (0, 1)]
    steps = zip(*(batches.steps(0, 40) for batches in ranks))
    assert [key for step in steps for rank in step for micro in rank for key in micro.keys] == plain[:40]


def test_a_recipe_file_can_name_the_mixture(tiny_run, toy_data, other_data, tmp_path):
    run = tiny_run(f"--data.mixture={{'{toy_data}': 3, '{other_data}': 1}}")
    (tmp_path / "mixed.yaml").write_text(dump_run(run))
    again = load_run(str(tmp_path / "mixed.yaml"))
    assert again == run and again.data.mixture == {str(toy_data): 3.0, str(other_data): 1.0}
    with pytest.raises(ConfigError, match="no share for data"):
        tiny_run(f"--data.mixture={{'{other_data}': 1}}")


def lengths_of(batches, stop):
    """For each step, the lengths of its sequences."""
    return [[int(n) for micro in step for n in micro.mask.sum(1)] for step in batches.steps(0, stop)]


@pytest.mark.parametrize("several", [False, True])
def test_length_buckets_pad_less_and_see_every_pair(read, toy_data, other_data, several):
    changes = (f"--data.mixture={{'{toy_data}': 0.8, '{other_data}': 0.2}}",) if several else ()
    plain, bucketed = read(*changes), read("--data.buckets=length", *changes)
    stop = 120 if several else 48

    def padding(batches):
        return sum(len(step) * max(step) - sum(step) for step in lengths_of(batches, stop))

    assert padding(bucketed) < 0.75 * padding(plain)  # measured 0.5, and 0.71 in whole steps of one data set
    assert keys(read("--data.buckets=length", *changes), 40, start=16) == keys(bucketed, 40)[16:]
    if not several:
        assert sorted(keys(bucketed, 48)) == sorted(StoredPairs(toy_data, "train").keys)
    else:
        own = set(StoredPairs(toy_data, "train").keys)
        seen = keys(bucketed, 120)
        steps = [seen[start : start + 4] for start in range(0, 120, 4)]
        assert all(len({key in own for key in step}) == 1 for step in steps)  # whole steps are mixed


@pytest.fixture
def shapes_data(tmp_path, make_picture):
    """Pairs of two shapes, in a file of JSON lines that was prepared."""
    rows = []
    shapes = [(128, 64), (64, 128), (96, 96), (124, 64), (64, 124), (100, 96)]
    for number, (width, height) in enumerate(shapes):
        (tmp_path / f"{number}.png").write_bytes(make_picture(width, height, seed=number))
        rows.append(f'{{"source": "{number}.png", "target": "{number}.png", "instruction": "go"}}')
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "shapes", test=0, progress=False)
    return tmp_path / "shapes"


def test_shape_buckets_keep_the_ratio_of_width_to_height(read, parts, shapes_data):
    changes = ("--data.buckets=shape", "--data.shape_step=8", f"--data.path={shapes_data}")
    two = (*changes, "--train.batch_size=2", "--train.micro_batch_size=2")
    batches = read(*two, editor=parts.editor)
    shapes = Counter(tuple(micro.target.shape) for step in batches.steps(0, 6) for micro in step)
    assert shapes == {(2, 3, 48, 88): 1, (2, 3, 88, 48): 1, (2, 3, 64, 64): 1}
    assert len(set(keys(batches, 6))) == 6


def test_shapes_that_the_codec_cannot_read_are_refused(read, parts, shapes_data):
    with pytest.raises(DataError, match="multiples of"):
        read("--data.buckets=shape", "--data.shape_step=7", f"--data.path={shapes_data}", editor=parts.editor)


def test_pair_weights(read, tmp_path, make_picture):
    (tmp_path / "t.png").write_bytes(make_picture(32, 32))
    rows = "".join(
        f'{{"target": "t.png", "instruction": "go", "key": "k{weight}", "weight": {weight}}}\n'
        for weight in (0, 1, 3)
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "set", test=0, progress=False)
    batches = read(f"--data.path={tmp_path / 'set'}", "--data.pair_weights=true")
    assert Counter(keys(batches, 4)) == {"k1": 1, "k3": 3}


@pytest.mark.parametrize(("last", "epoch"), [("straddle", 10), ("drop", 8), ("pad", 12)])
def test_the_last_step_is_a_choice(read, other_data, last, epoch):
    assert read(f"--data.path={other_data}", f"--data.last={last}").epoch == epoch


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """Twenty-three pairs in several Parquet files, read in windows of six."""
    monkeypatch.setattr(shards, "BATCH_ROWS", 4)
    monkeypatch.setattr(shards, "SHARD_BYTES", 12_000)
    monkeypatch.setattr(streamed, "WINDOW", 6)
    prepare("toy", tmp_path / "hub", count=23, test=2, size=64, format="parquet", progress=False)
    return tmp_path / "hub"


def test_a_stream_goes_on_where_the_run_was(read, tiny_run, parquet, monkeypatch):
    changes = (f"--data.path={parquet}", "--data.streaming=true")
    batches = read(*changes)
    assert batches.epoch == 23
    whole = keys(batches, 60)
    assert sorted(whole[:23]) == sorted(set(whole))
    assert keys(read(*changes), 60, start=48) == whole[48:]
    noted = tiny_run(*changes).folder / "stream.json"
    assert not noted.exists()  # the files say how many rows they have
    monkeypatch.setattr(tables, "file_rows", lambda *about: [None] * about[-1].num_shards)
    assert keys(read(*changes), 60) == whole and json.loads(noted.read_text())
    ranks = [read(*changes, "--train.micro_batch_size=2", rank=rank, world=2) for rank in (0, 1)]
    steps = zip(*(list(batches.steps(48, 60)) for batches in ranks))
    assert [key for step in steps for rank in step for micro in rank for key in micro.keys] == whole[48:]


def test_stored_features_are_read_only_by_the_parts_that_made_them(read, parts, tmp_path):
    arguments = {"seed": 3, "count": 8, "test": 2, "size": 64, "progress": False}
    made = {"store": "vae,clip", "model": "tiny", "precision": "float32"}
    prepare("toy", tmp_path / "toy", **arguments, **made)
    path = f"--data.path={tmp_path / 'toy'}"
    batches = read(path, "--data.features=[vae, clip]", editor=parts.editor)
    batch, plain = next(batches.steps())[0], next(read(path).steps())[0]
    assert batch.keys == plain.keys and not batch.target.numel() and plain.target_mean is None
    mean, std = parts.editor.codec.moments(plain.target)
    torch.testing.assert_close(batch.target_mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(batch.target_std, std, rtol=1e-5, atol=1e-5)
    with pytest.raises(WeightsError, match="otherwise"):
        read(path, "--data.size=16", "--data.features=[vae]", editor=parts.editor)
    with pytest.raises(DataError, match="--store"):
        read("--data.features=[vae]", editor=parts.editor)
    with pytest.raises(ConfigError, match=r"vision_tower in train\.groups"):
        read(path, "--train.groups=[vision_tower]", "--data.features=[clip]", editor=parts.editor)
    with pytest.raises(ConfigError, match="for one editor"):
        read(path, "--data.features=[vae]")


def test_a_run_from_a_stream_and_one_from_a_mixture(tiny_run, parquet, toy_data, other_data):
    stream = (f"--data.path={parquet}", "--data.streaming=true", "--train.samples=null", "--train.epochs=0.5")
    found = train(tiny_run(*stream, "--name=stream"))
    assert found["samples"] == 12  # half of 23, to whole steps
    mixed = f"--data.mixture={{'{toy_data}': 0.75, '{other_data}': 0.25}}"
    assert train(tiny_run(mixed, "--name=mixed", "--data.buckets=length", samples=8))["steps"] == 2


def test_each_picture_is_decoded_once_and_no_file_stays_open(read, monkeypatch):
    batches = read()
    steps = batches.steps(0, 24)
    next(steps)
    decoded, plain = [], examples.decode
    monkeypatch.setattr(
        examples, "decode", lambda data, *, name: decoded.append(name) or plain(data, name=name)
    )
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert len(list(steps)) == 5
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(decoded) == len(set(decoded))
    assert sum(name.startswith("target of") for name in decoded) == 20  # some pairs have no source


@pytest.mark.parametrize(
    "wish",
    [
        {"streaming": True, "buckets": "length"},
        {"streaming": True, "mixture": {"a": 1.0}},
        {"streaming": True, "features": ("vae",)},
        {"pair_weights": True, "buckets": "length"},
        {"buckets": "shape", "features": ("vae",)},
        {"buckets": "shape", "last": "straddle"},
        {"mixture": {"a": 1.0, "b": 1.0}, "last": "drop"},
    ],
)
def test_wishes_that_exclude_each_other(wish):
    with pytest.raises(ConfigError, match=r"data\."):
        DataConfig(**({"path": "a", "size": 32, "max_length": 64} | wish))


def test_previews_need_held_out_pairs(read, parquet, shapes_data):
    with pytest.raises(ConfigError, match=r"preview\.every"):
        read(f"--data.path={parquet}", "--data.streaming=true", "--preview.every=8")
    with pytest.raises(ConfigError, match="--test N"):
        read(f"--data.path={shapes_data}", "--preview.every=8")
    read("--preview.every=8")


def test_sets_are_data_sets(other_data, tmp_path):
    with pytest.raises(DataError, match="no data set"):
        open_sets({str(other_data): 1.0, str(tmp_path): 1.0}, OrderConfig(batch_size=2), seed=0)


def test_training_from_stored_features_is_training_from_pixels(tiny_run, tmp_path):
    arguments = {"seed": 3, "count": 8, "test": 2, "size": 64, "progress": False}
    prepare("toy", tmp_path / "toy", **arguments, store="vae,clip", model="tiny", precision="float32")
    path = f"--data.path={tmp_path / 'toy'}"
    pixels = train(tiny_run(path, "--name=pixels", samples=8))
    stored = train(tiny_run(path, "--name=stored", "--data.features=[vae, clip]", samples=8))
    for name in ("loss_ce", "loss_edit"):
        assert stored[name] == pytest.approx(pixels[name], rel=1e-6), name
    clip = train(tiny_run(path, "--name=clip", "--data.features=[clip]", samples=8))
    assert clip["loss_edit"] == pytest.approx(pixels["loss_edit"], rel=1e-6)


def test_training_on_pictures_of_several_shapes(tiny_run, shapes_data):
    changes = ("--data.buckets=shape", "--data.shape_step=8", f"--data.path={shapes_data}")
    found = train(tiny_run(*changes, "--train.batch_size=2", "--train.micro_batch_size=1", samples=6))
    assert found["steps"] == 3 and found["loss_edit"] > 0


def test_data_is_known_by_its_rows_and_shares_wherever_it_lies(toy_data, other_data, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "facts.json").write_text((toy_data / "facts.json").read_text())
    assert identity({str(toy_data): 1.0}) == identity({str(moved): 3.0})
    assert identity({str(toy_data): 1.0}) != identity({str(other_data): 1.0})
    half = identity({str(toy_data): 1.0, str(other_data): 1.0})
    assert half == identity({str(moved): 0.5, str(other_data): 0.5})
    assert half != identity({str(toy_data): 2.0, str(other_data): 1.0})
    with pytest.raises(DataError, match="is no data set"):
        identity({str(tmp_path): 1.0})


def test_a_stream_is_known_by_its_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-0.parquet").write_bytes(b"x" * 9)
    assert len({identity({str(tmp_path / name): 1.0}, streaming=True) for name in ("one", "two")}) == 1
    (tmp_path / "two" / "train-1.parquet").write_bytes(b"y")
    assert len({identity({str(tmp_path / name): 1.0}, streaming=True) for name in ("one", "two")}) == 2
