import json
from dataclasses import replace

import pytest

from mgie.data import express
from mgie.data.captions import Given, Spoken, open_voice, weights_identity
from mgie.data.express import Said
from mgie.data.stored_pairs import StoredPairs
from mgie.data.validation import Gate, Rejected
from mgie.errors import ConfigError, DataError
from mgie.prepare import prepare, table


class Kill(BaseException):
    """As a kill would end the program."""


class Model:
    """Says the key of each pair; is killed after some batches."""

    def __init__(self, batches=99):
        self.batches, self.seen = batches, []

    def __call__(self, pairs):
        if self.batches == len(self.seen):
            raise Kill
        self.seen.append([pair.key for pair in pairs])
        return [Said(key=pair.key, paragraph="p", expressive=f"It is {pair.key}.") for pair in pairs]


def spoken(tmp_path, model, **changes):
    settings = {"made_by": {"by": "model"}, "batch_size": 3} | changes
    return Spoken(tmp_path / "a" / "x", model, **settings)


def notes(tmp_path):
    return sorted((tmp_path / "a").iterdir())


def test_a_kill_loses_one_batch_at_most_and_nothing_is_made_twice(tmp_path, make_pair):
    sized = [(make_pair(index), (12, 12)) for index in range(10)]
    first, second = Model(batches=2), Model()
    with pytest.raises(Kill):
        list(spoken(tmp_path, first)((), lambda _: sized))
    voice = spoken(tmp_path, second)
    assert [pair.expressive for pair, _ in voice((), lambda _: sized)] == [
        f"It is pair-{index}." for index in range(10)
    ]
    assert first.seen == [[f"pair-{i}" for i in (0, 1, 2)], [f"pair-{i}" for i in (3, 4, 5)]]
    assert second.seen == [[f"pair-{i}" for i in (6, 7, 8)], ["pair-9"]]
    assert voice.facts() == {"express": {"by": "model", "rows": 10, "without": 0}}
    assert (voice.made, voice.reused) == (4, 6)
    voice.notes.unlink()
    assert not list((tmp_path / "a").iterdir())


def test_pairs_that_a_model_has_no_words_for_are_counted(tmp_path, make_pair):
    def silent(pairs):
        return [
            Said(key=pair.key, paragraph="", expressive="a"[: index % 2]) for index, pair in enumerate(pairs)
        ]

    sized = [(make_pair(index), (12, 12)) for index in range(5)]
    for _ in range(2):  # the second time from the file
        voice = spoken(tmp_path, silent, batch_size=5)
        list(voice((), lambda _: sized))
        assert voice.facts()["express"]["without"] == 3


def test_a_line_that_was_cut_off_is_made_again(tmp_path, make_pair):
    sized = [(make_pair(index), (12, 12)) for index in range(6)]
    list(spoken(tmp_path, Model())((), lambda _: sized))
    (path,) = notes(tmp_path)
    assert path.name.startswith(".x.express-")
    path.write_bytes(path.read_bytes()[:-20])
    model = Model()
    voice = spoken(tmp_path, model)
    assert len(list(voice((), lambda _: sized))) == 6 and model.seen == [["pair-5"]]
    assert len(list(spoken(tmp_path, Model(batches=0))((), lambda _: sized))) == 6


def test_what_was_made_otherwise_is_not_used(tmp_path, make_pair):
    sized = [(make_pair(index), (12, 12)) for index in range(3)]
    list(spoken(tmp_path, Model())((), lambda _: sized))
    other = Model()
    list(
        spoken(tmp_path, other)(
            (), lambda _: [(replace(pair, instruction="other"), size) for pair, size in sized]
        )
    )
    another = spoken(tmp_path, other, made_by={"by": "another"})
    list(another((), lambda _: sized))
    assert len(other.seen) == 2 and len(notes(tmp_path)) == 2
    another.notes.unlink()  # its own notes are no longer needed; those of the first are left alone
    list(spoken(tmp_path, Model(batches=0))((), lambda _: sized))
    (path,) = notes(tmp_path)
    path.write_bytes(b"\xff\n{")
    list(spoken(tmp_path, other)((), lambda _: sized))
    assert len(other.seen) == 3


def test_another_batch_size_loses_nothing(tmp_path, make_pair):
    sized = [(make_pair(index), (12, 12)) for index in range(10)]
    with pytest.raises(Kill):
        list(spoken(tmp_path, Model(batches=2))((), lambda _: sized))
    model = Model()
    voice = spoken(tmp_path, model, batch_size=4)
    assert [pair.expressive for pair, _ in voice((), lambda _: sized)] == [
        f"It is pair-{i}." for i in range(10)
    ]
    assert model.seen == [["pair-6", "pair-7"], ["pair-8", "pair-9"]] and len(notes(tmp_path)) == 1


def test_a_model_is_its_weights_wherever_they_lie(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(2_000_000))
    (tmp_path / "b" / "README.md").write_text("x")
    same = weights_identity(str(tmp_path / "a"))
    assert weights_identity(str(tmp_path / "b")) == same and weights_identity("none") == "none"
    (tmp_path / "b" / "model.safetensors").write_bytes(bytes(1_999_999) + b"\1")
    assert weights_identity(str(tmp_path / "b")) != same


def test_given_texts(tmp_path, make_pair):
    path = tmp_path / "said.json"
    path.write_text(json.dumps({
        "pair-0": {"instruction": "make it red", "expressive": "So."}, "pair-1": "Thus.",
        "pair-2": {"instruction": "something else", "expressive": "No."},
    }))  # fmt: skip
    given = Given(path)
    rejected = Rejected(key="r", reason="x", detail="y.")
    gate = Gate()
    rows = [make_pair(0), make_pair(1), make_pair(2), make_pair(3), rejected]
    found = [pair for pair, _ in given(rows, gate)]
    assert [pair.expressive for pair in found[:2]] == ["So.", "Thus."] and found[2:] == [make_pair(3)]
    assert [row.reason for row in gate.rejected] == ["other instruction", "x"]
    assert given.facts() == {"express": {"given": 2, "without": 1}}
    other = Given(path)
    list(other([make_pair(9)], Gate()))
    with pytest.raises(DataError, match="none of the 1 pairs"):
        other.facts()
    for text in ("{", "[]", '{"a": {"b": 1}}', '{"a": 3}'):
        path.write_text(text)
        with pytest.raises(DataError, match="cannot be read"):
            Given(path)
    with pytest.raises(DataError, match="cannot be read"):
        Given(tmp_path / "none.json")


def test_which_voice(tmp_path):
    assert open_voice(None, None, tmp_path / "x") is None
    for wrong in ("llava", "llava:", "file:", "other:x"):
        with pytest.raises(ConfigError, match="is not understood"):
            open_voice(wrong, None, tmp_path / "x")


def test_the_whole_way(tmp_path, llava_folder, monkeypatch):
    monkeypatch.setattr(express, "MAX_NEW_TOKENS", 12)
    facts = prepare(
        "toy",
        tmp_path / "toy",
        count=5,
        test=2,
        size=64,
        express=f"llava:{llava_folder}",
        summarise="none",
        express_batch=2,
    )
    assert facts["express"]["summariser"] == "none" and facts["express"]["rows"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    said = {pair.key: pair.expressive for pair in StoredPairs(tmp_path / "toy", "train")}
    (tmp_path / "said.json").write_text(json.dumps(said))
    again = prepare(
        "toy", tmp_path / "again", count=5, test=2, size=64, express=f"file:{tmp_path / 'said.json'}"
    )
    assert again["splits"]["train"]["sha256"] == facts["splits"]["train"]["sha256"]
    assert again["express"] == {"given": 5, "without": 2}
    assert "without expressive text          2" in table(again)
