"""A data set that is not what was written is noticed when it is opened."""

import json
import shutil

import pytest

from mgie.data import shards
from mgie.data.datasets import open_sets
from mgie.data.orders import OrderConfig
from mgie.data.shards import check_set
from mgie.data.stored_pairs import FACTS, StoredPairs, data_identity
from mgie.errors import DataError
from mgie.prepare import check, prepare


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    prepare("toy", folder / "one", seed=1, count=6, test=6, size=64, progress=False)
    prepare("toy", folder / "other", seed=2, count=6, test=6, size=64, progress=False)
    return folder


@pytest.fixture
def sets(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "sets")
    return tmp_path / "sets"


def shard_of_another_set(one, other):
    shutil.copy(other / "train" / "data-00000.arrow", one / "train" / "data-00000.arrow")


def split_of_another_set(one, other):
    shutil.rmtree(one / "train")
    shutil.copytree(other / "train", one / "train")


def held_out_as_train(one, _):
    shutil.rmtree(one / "train")
    shutil.copytree(one / "test", one / "train")


def train_as_test(one, _):
    shutil.copy(one / "train" / "data-00000.arrow", one / "test" / "data-00000.arrow")


def other_words(one, _):
    path = one / "train" / "data-00000.arrow"
    data = path.read_bytes()
    word = StoredPairs(one, "train")[2].instruction.encode()
    assert word in data
    path.write_bytes(data.replace(word, word[::-1]))


def no_shard(one, _):
    (one / "train" / "data-00000.arrow").unlink()


def facts_of_another_set(one, other):
    shutil.copy(other / FACTS, one / FACTS)


CHANGES = [
    shard_of_another_set, split_of_another_set, held_out_as_train, train_as_test, other_words, no_shard,
    facts_of_another_set,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("size", ["small", "large"])
def test_a_changed_data_set_is_noticed_before_training(sets, monkeypatch, change, size):
    if size == "large":  # as one of which only blocks are compared
        monkeypatch.setattr(shards, "WHOLE_BYTES", 0)
    one = sets / "one"
    check_set(one, sampled=True)
    assert data_identity(one) != data_identity(sets / "other")
    change(one, sets / "other")
    with pytest.raises(DataError, match=r"again"):
        open_sets({str(one): 1.0}, OrderConfig(batch_size=2), seed=0)


def test_what_only_the_whole_check_sees_in_a_large_set(sets, monkeypatch):
    monkeypatch.setattr(shards, "SAMPLE_BYTES", 8)
    path = sets / "one" / "train" / "data-00000.arrow"
    facts = json.loads((sets / "one" / FACTS).read_text())
    facts["splits"].pop("test")
    facts["splits"]["train"]["shards"][0]["sample"] = shards.sampled_hash(path)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    (sets / "one" / FACTS).write_text(json.dumps(facts))
    monkeypatch.setattr(shards, "WHOLE_BYTES", 0)
    check_set(sets / "one", sampled=True)
    with pytest.raises(DataError, match="another SHA-256"):
        check_set(sets / "one")


@pytest.mark.parametrize("way", ["../other/train/data-00000.arrow", "{other}/train/data-00000.arrow", "."])
def test_facts_name_files_inside_only(sets, way):
    facts = json.loads((sets / "one" / FACTS).read_text())
    there = json.loads((sets / "other" / FACTS).read_text())["splits"]["train"]["shards"][0]
    facts["splits"]["train"]["shards"] = [there | {"file": way.format(other=sets / "other")}]
    (sets / "one" / FACTS).write_text(json.dumps(facts))
    for opened in (check_set, check, lambda folder: StoredPairs(folder, "train")):
        with pytest.raises(DataError, match="again"):
            opened(sets / "one")
