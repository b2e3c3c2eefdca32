import json
from pathlib import Path

import pytest
import torch
from torch import nn

from llava_patch import load_llava
from llava_patch.errors import UserError, WeightsError
from llava_patch.sizes import MOST_TENSORS, no_larger_than


def build(layers: int, width: int = 4) -> nn.Module:
    with torch.device("meta"):
        return nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])


def test_no_more_values_than_bytes(tmp_path: Path):
    (tmp_path / "weights").write_bytes(bytes(40))
    with no_larger_than([tmp_path / "weights"], tmp_path):
        build(2)
    with (
        pytest.raises(WeightsError, match=r"asks for 56 values and more, but the files .* have 40 bytes"),
        no_larger_than([tmp_path / "weights"], tmp_path),
    ):
        build(10**9)
    build(20)  # outside the block anything goes


def test_no_more_tensors_than_any_model_has(tmp_path: Path):
    with (
        pytest.raises(WeightsError, match=f"more than {MOST_TENSORS} tensors, but no such model"),
        no_larger_than(None, tmp_path),
    ):
        build(10**9)


def test_other_errors_stay_what_they_are(tmp_path: Path):
    with pytest.raises(KeyError), no_larger_than([], tmp_path):
        raise KeyError


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"num_hidden_layers": 100_000}),
        ("config.json", {"hidden_size": 2**40}),
        ("config.json", {"intermediate_size": 2**40}),
        ("vision_tower/config.json", {"num_hidden_layers": 100_000}),
        ("vision_tower/config.json", {"image_size": 28_000_000}),
    ],
)
def test_a_llava_is_no_larger_than_its_files(folder: Path, file: str, values: dict):
    content = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"its config\.json asks for"):
        load_llava(folder, progress=False)


@pytest.mark.parametrize("file", ["config.json", "vision_tower/config.json", "tokenizer_config.json"])
def test_deeply_nested_files(folder: Path, file: str):
    (folder / file).write_text('{"a":' * 30_000 + "1" + "}" * 30_000)
    with pytest.raises(UserError, match="cannot be read"):
        load_llava(folder, progress=False)
