import json
from pathlib import Path

import pytest

from llava_patch import LlavaConfig
from llava_patch.config import resolve_tower
from llava_patch.errors import ConfigError, UserError, WeightsError


def rewrite(folder: Path, **changes: object) -> None:
    """Change a folder's config.json; None removes the key."""
    content = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def test_published_and_read_again(folder: Path, config: LlavaConfig):
    again = LlavaConfig.from_pretrained(folder)
    assert again.to_published() == config.to_published() | {"torch_dtype": "float32"}
    assert again.patches == config.patches == 4
    published = json.loads((folder / "config.json").read_text())
    assert published["model_type"] == "llava"
    assert published["mm_hidden_size"] == config.vision.hidden_size
    assert published["mm_vision_select_layer"] == config.vision_layer


def test_rotary_base_of_old_and_new_files(folder: Path):
    rewrite(folder, rope_theta=500.0)
    config = LlavaConfig.from_pretrained(folder)
    assert config.language.rope_parameters["rope_theta"] == 500.0
    assert config.to_published()["rope_theta"] == 500.0
    rewrite(folder, rope_theta=None)
    assert LlavaConfig.from_pretrained(folder).language.rope_parameters["rope_theta"] == 10000.0


def test_padding_of_the_first_conversions_is_no_row(folder: Path):
    rewrite(folder, pad_token_id=-1)
    assert LlavaConfig.from_pretrained(folder).language.pad_token_id is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"text_config": {}}, "transformers' own"),
        ({"mm_projector_type": "mlp2x_gelu"}, "mlp2x_gelu"),
        ({"mm_vision_tower": None}, "does not say mm_vision_tower"),
        ({"mm_vision_select_layer": 4}, "4 hidden states"),
        ({"mm_hidden_size": 1024}, "width 1024"),
        ({"tie_word_embeddings": True}, "ties"),
        ({"num_attention_heads": 5}, "LlamaConfig"),
        ({"mm_vision_tower": "no/where"}, "no/where"),
    ],
)
def test_configurations_that_cannot_work(folder: Path, changes: dict, message: str):
    rewrite(folder, **changes)
    with pytest.raises(UserError, match=message):
        LlavaConfig.from_pretrained(folder)


def test_a_tower_that_is_none(folder: Path):
    rewrite(folder / "vision_tower", model_type="dinov2")
    with pytest.raises(ConfigError, match="dinov2"):
        LlavaConfig.from_pretrained(folder)


def test_a_folder_without_configuration(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        LlavaConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        LlavaConfig.from_pretrained(tmp_path)


def test_a_relative_tower_lies_in_the_folder_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "vision_tower").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_tower(folder, "vision_tower") == folder / "vision_tower"
    assert resolve_tower(folder, "elsewhere") == Path("elsewhere")
    assert resolve_tower(folder, str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"
