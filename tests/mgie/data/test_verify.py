import json

import pytest

from mgie.data.stored_pairs import FACTS
from mgie.errors import DataError
from mgie.prepare import check, prepare


@pytest.fixture(params=["arrow", "parquet", "legacy"])
def folder(tmp_path, request):
    prepare("toy", tmp_path / "set", count=4, test=2, size=64, format=request.param)
    return tmp_path / "set"


def test_a_whole_data_set_is_whole(folder):
    assert check(folder)["splits"]["train"]["rows"] == 4


def test_every_byte_of_every_file_counts(folder):
    facts = json.loads((folder / FACTS).read_text())
    for shard in facts["splits"]["train"]["shards"]:
        path = folder / shard["file"]
        whole = path.read_bytes()
        for damaged, words in (
            (whole[:-1], "bytes, expected"),
            (whole[:-9] + b"x" + whole[-8:], "SHA-256"),
            (None, "missing"),
        ):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(DataError, match=words):
                check(folder)
            path.write_bytes(whole)
    check(folder)


def test_facts_that_do_not_fit_the_rows(folder):
    facts = json.loads((folder / FACTS).read_text())
    if facts["arguments"]["format"] == "legacy":
        pytest.skip("legacy files have no rows to compare")
    for change, words in (
        ({"rows": 5}, "expected 5"),
        ({"sha256": "0"}, "another SHA-256"),
        ({"shards": 3}, "expected what `mgie prepare` writes"),
    ):
        wrong = facts | {"splits": facts["splits"] | {"train": facts["splits"]["train"] | change}}
        (folder / FACTS).write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=words):
            check(folder)


def test_no_data_set(tmp_path):
    with pytest.raises(DataError, match="no data set"):
        check(tmp_path)
