import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_patch import shards
from llava_patch.errors import WeightsError
from llava_patch.shards import (
    TensorFolder,
    each_shard,
    read_tensors,
    shard_files,
    write_tensors,
)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.full((4, 8), float(value)) for value, name in enumerate("abcde")}


@pytest.mark.parametrize(("limit", "files"), [(10**6, 1), (300, 3), (1, 5)])
def test_written_in_shards_and_read_again(tmp_path: Path, tensors: dict, limit: int, files: int):
    write_tensors(tmp_path, tensors.items(), limit=limit)
    assert len(shard_files(tmp_path)) == files
    assert (tmp_path / "model.safetensors").is_file() == (files == 1)
    read = {name: value for _, part in each_shard(tmp_path, progress=False) for name, value in part.items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert not list(tmp_path.glob(".part*"))


def test_views_of_one_storage_are_written_apart(tmp_path: Path):
    table = torch.arange(8.0)
    write_tensors(tmp_path, [("a", table[:4]), ("b", table[2:].reshape(2, 3).T)])
    assert load_file(tmp_path / "model.safetensors")["b"].tolist() == [[2.0, 5.0], [3.0, 6.0], [4.0, 7.0]]


@pytest.mark.parametrize(
    "names", [["pytorch_model.bin"], [f"pytorch_model-{n:05d}-of-00003.bin" for n in (1, 2, 3)]]
)
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_shards_of_any_number(
    tmp_path: Path, tensors: dict, names: list[str], index: bool, zipped: bool
):
    for place, name in enumerate(names):
        part = {key: value for key, value in tensors.items() if ord(key) % len(names) == place}
        torch.save(part, tmp_path / name, _use_new_zipfile_serialization=zipped)
    if index and len(names) > 1:
        weight_map = {key: names[ord(key) % len(names)] for key in tensors}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    folder = TensorFolder(tmp_path, progress=False)
    assert folder.shapes == {name: (4, 8) for name in tensors}
    assert all(torch.equal(folder[name], tensors[name]) for name in "ebadc")


def test_missing_shards(tmp_path: Path, tensors: dict):
    write_tensors(tmp_path, tensors.items(), limit=300)
    shard_files(tmp_path)[1].unlink()
    with pytest.raises(WeightsError, match=r"lacks model-00002-of-00003\.safetensors"):
        shard_files(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match="2 of 3 shards"):
        shard_files(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}'])
def test_an_index_that_is_none(tmp_path: Path, content: str):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match="no index of shards"):
        shard_files(tmp_path)


def test_folders_and_files_that_are_none(tmp_path: Path):
    with pytest.raises(WeightsError, match="holds no weights"):
        shard_files(tmp_path)
    with pytest.raises(WeightsError, match="is no folder"):
        shard_files(tmp_path / "none")
    with pytest.raises(WeightsError, match="is missing"):
        read_tensors(tmp_path / "none.bin")


def test_a_name_in_two_files(tmp_path: Path, tensors: dict):
    for number in (1, 2):
        torch.save(tensors, tmp_path / f"pytorch_model-{number:05d}-of-00002.bin")
    with pytest.raises(WeightsError, match=r"a is in .*00001-of-00002.* and in .*00002-of-00002"):
        list(each_shard(tmp_path, progress=False))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_pickle(tmp_path: Path, tensors: dict, zipped: bool, share: float):
    path = tmp_path / "pytorch_model.bin"
    torch.save(
        {name: value.repeat(50, 1) for name, value in tensors.items()},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match="damaged or cut short; fetch the file again"):
        read_tensors(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncated_safetensors(tmp_path: Path, tensors: dict, share: float):
    write_tensors(tmp_path, tensors.items())
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git-lfs's pointer"),
        ("\n<!DOCTYPE html><title>404</title>", "is a web page, no file of weights"),
        ("dear", "damaged or cut short"),
    ],
)
def test_a_text_file(tmp_path: Path, name: str, text: str, sentence: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match=sentence):
        read_tensors(tmp_path / name)


def test_a_folder_where_a_file_should_be(tmp_path: Path):
    with pytest.raises(WeightsError, match="is a folder, expected a file of weights"):
        read_tensors(tmp_path)


class Surprise:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        {"a": torch.zeros(1), "b": Surprise()},
        {"a": {"b": torch.zeros(1)}},
        {"step": 3},
        [1],
        {7: torch.zeros(1)},
        {"a": torch.zeros(1, device="meta")},
        {"a": torch.zeros(1, dtype=torch.complex64)},
        {"a": torch.zeros(1).to_sparse()},
    ],
)
def test_a_pickle_with_anything_but_tensors(tmp_path: Path, content: object, zipped: bool, capsys):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"other than tensors|expected tensors by name"):
        read_tensors(path)
    assert "executed" not in capsys.readouterr().out


def test_a_bare_pickle(tmp_path: Path, capsys):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Surprise()))
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "pytorch_model.bin")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.safetensors", "a/b.safetensors", "", "..", "a\\b"])
def test_an_index_names_files_beside_it(tmp_path: Path, tensors: dict, name: str):
    (tmp_path / "here").mkdir()
    for folder in (tmp_path, tmp_path / "here"):
        write_tensors(folder, tensors.items())
    index = tmp_path / "here" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": name}}))
    with pytest.raises(WeightsError, match="expected files beside it"):
        shard_files(tmp_path / "here")


@pytest.mark.parametrize("text", ["[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "[" * 30_000])
def test_indexes_that_are_none(tmp_path: Path, text: str):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError, match="is no index of shards"):
        shard_files(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_what_has_been_taken_out_of_a_file_is_given_back(tmp_path, monkeypatch):
    """Pages of a mapped file count as the process's memory: a large file beside its copy would double it."""
    wanted = {f"tensor_{number}": torch.randn(1000) for number in range(10)}
    save_file(wanted, tmp_path / "model.safetensors")
    monkeypatch.setattr(shards, "PORTION", 8200)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    tensors = read_tensors(tmp_path / "model.safetensors")
    assert tensors.keys() == wanted.keys() and mapped() == 5
    for name in list(tensors)[:6]:
        assert torch.equal(tensors.pop(name), wanted[name])
    assert mapped() == 2
