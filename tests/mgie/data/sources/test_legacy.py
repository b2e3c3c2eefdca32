import base64
import json
import os
import pickle

import pytest

from mgie.data.sources import open_source
from mgie.data.sources.base import Options
from mgie.data.sources.legacy import load_plain, write_legacy
from mgie.errors import DataError


def rows(folder):
    return list(open_source(f"legacy:{folder}", Options(test=0))["train"])


@pytest.fixture
def folder(tmp_path, make_pair):
    pairs = [make_pair(k, key=f"000{k}_77_0", expressive="" if k == 1 else f"It is {k}.") for k in range(3)]
    write_legacy(((pair, (12, 12)) for pair in pairs), tmp_path, "train")
    return tmp_path / "train", pairs


def test_written_and_read_back(folder):
    where, pairs = folder
    assert rows(where) == pairs


def test_the_files_are_the_originals(folder):
    where, pairs = folder
    index = pickle.loads((where / "ipr2pr.pkl").read_bytes())["task"]
    lines = (where / "ipr2pr.tsv").read_bytes()
    for (entry,), pair in zip(index, pairs, strict=True):
        assert entry["input"] == pair.key and entry["answer"] == pair.key[:-1] + "1"
        source, target = lines[entry["lineidx"] :].split(b"\n")[0].split(b"\t")
        assert base64.b64decode(source) == pair.source and base64.b64decode(target) == pair.target
    said = json.loads((where / "ipr2pr_expressive.json").read_text())
    assert said["0002_77_0"] == {"instruction": pairs[2].instruction, "expressive": "It is 2."}
    assert list(said) == ["0000_77_0", "0002_77_0"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-not-exist",)


@pytest.mark.parametrize("evil", [Evil(), [Evil()], {"task": Evil()}, os.getcwd, int])
def test_a_pickle_that_names_code_is_refused_before_it_runs(folder, evil):
    where, _ = folder
    (where / "ipr2pr.pkl").write_bytes(pickle.dumps(evil))
    with pytest.raises(DataError, match="only plain data is allowed"):
        rows(where)
    assert not os.path.exists("/tmp/should-not-exist")


def test_plain_data_is_read_and_damage_is_told(folder):
    plain = {"a": [1, 2.5, "x", None, True, (1, b"2")], "b": {1: {2}}}
    assert load_plain(pickle.dumps(plain)) == plain
    where, _ = folder
    whole = (where / "ipr2pr.pkl").read_bytes()
    for damaged in (whole[:30], b"", b"junk", pickle.dumps([1]), pickle.dumps({"task": 3})):
        (where / "ipr2pr.pkl").write_bytes(damaged)
        with pytest.raises(DataError, match=r"ipr2pr\.pkl"):
            rows(where)


def test_bad_entries_are_told(folder):
    where, pairs = folder
    index = pickle.loads((where / "ipr2pr.pkl").read_bytes())["task"]
    index[0][0]["lineidx"] += 3
    index[1][0]["lineidx"] = 10**9
    index.append([{"input": "x"}])
    index.append(["?"])
    (where / "ipr2pr.pkl").write_bytes(pickle.dumps({"task": index}))
    found = rows(where)
    assert [getattr(row, "reason", row.key) for row in found] == [
        "bad row",
        "bad row",
        pairs[2].key,
        "bad row",
        "bad row",
    ]
    lines = (where / "ipr2pr.tsv").read_bytes().replace(b"\t", b" ")
    (where / "ipr2pr.tsv").write_bytes(lines)
    assert {row.reason for row in rows(where)} == {"bad row"}


def test_missing_files_are_told(folder, tmp_path):
    where, _ = folder
    (where / "ipr2pr_expressive.json").unlink()
    assert all(pair.expressive == "" for pair in rows(where))
    (where / "ipr2pr_expressive.json").write_text('{"a": 3}')
    with pytest.raises(DataError, match="expressive"):
        rows(where)
    (where / "ipr2pr.tsv").unlink()
    with pytest.raises(DataError, match=r"no ipr2pr\.tsv"):
        rows(where)
    with pytest.raises(DataError, match="expected the original's index"):
        rows(tmp_path / "none")


def test_a_pair_without_a_source_cannot_be_written(tmp_path, make_pair):
    with pytest.raises(DataError, match="no source"):
        write_legacy([(make_pair(0, source=None), (12, 12))], tmp_path, "train")
