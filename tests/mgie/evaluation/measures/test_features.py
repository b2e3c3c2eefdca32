"""Features of models in folders: what they see is the protocol's, whatever lies beside the weights."""

import json

import pytest
import torch
from benchmark_data import pic
from safetensors.torch import load_file, save_file

from mgie.errors import DataError, WeightsError
from mgie.evaluation.measures.blocks import DINO_PREP, clip_prep, prepared
from mgie.evaluation.measures.features import Clip, Dino


@pytest.fixture(scope="module")
def pictures():
    return [pic(seed, 227, 224) for seed in range(3)]


def test_clip_sees_the_published_crop_and_gives_its_own_features(clip_folder, pictures):
    clip = Clip(clip_folder)
    with torch.no_grad():
        seen = torch.stack([prepared(picture, clip_prep(224)) for picture in pictures])
        words = [clip.words(text, "error") for text in ("a red d", "a bad d")]
        read = [clip.model(pixel_values=seen, input_ids=torch.tensor([each.ids])) for each in words]
    unit = torch.nn.functional.normalize
    assert torch.allclose(unit(clip.images(pictures)), read[0].image_embeds, atol=1e-6)
    assert torch.allclose(unit(clip.texts(words)), torch.cat([each.text_embeds for each in read]), atol=1e-6)
    alone = torch.cat([clip.images([picture]) for picture in pictures])
    assert torch.allclose(clip.images(pictures), alone, atol=1e-6)


def test_a_processor_beside_dino_s_weights_is_not_read(dino_folder, pictures):
    """The one on the hub squashes to 224 x 224, with mean and deviation 0.5."""
    assert json.loads((dino_folder / "preprocessor_config.json").read_text())["image_mean"] == [0.5] * 3
    dino = Dino(dino_folder)
    with torch.no_grad():
        seen = torch.stack([prepared(picture, DINO_PREP) for picture in pictures])
        states = dino.model(pixel_values=seen).last_hidden_state[:, 0]
    assert torch.allclose(dino.images(pictures), states, atol=1e-6)


def test_dino_s_layer_norms_have_the_published_epsilon(dino_folder, pictures):
    """Whatever the folder's configuration says: 1e-12 on the hub, which gives other features."""
    assert json.loads((dino_folder / "config.json").read_text())["layer_norm_eps"] == 1e-12
    dino = Dino(dino_folder)
    norms = [each for each in dino.model.modules() if isinstance(each, torch.nn.LayerNorm)]
    assert norms and {norm.eps for norm in norms} == {1e-6}
    published = dino.images(pictures)
    for norm in norms:
        norm.eps = 1e-12
    assert not torch.equal(dino.images(pictures), published)


def test_long_texts(clip_folder):
    clip = Clip(clip_folder)
    with pytest.raises(DataError, match="CLIP reads 12"):
        clip.words("bad " * 40, "error")
    assert clip.words("bad " * 40, "cut").cut


def test_weights_are_told_by_their_hashes(clip_folder, dino_folder):
    for model in (Clip(clip_folder), Dino(dino_folder)):
        assert list(model.hashes) == ["model.safetensors"] and len(model.hashes["model.safetensors"]) == 64


def test_a_folder_that_is_no_model_says_what_was_expected(tmp_path):
    with pytest.raises(WeightsError, match="--clip expects a local folder"):
        Clip(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        Dino(tmp_path)


def test_a_model_with_a_tensor_missing_is_refused(dino_folder, tmp_path):
    """It would be filled with random numbers, and score."""
    weights = load_file(dino_folder / "model.safetensors")
    name = next(name for name in weights if "dense.weight" in name or "fc1.weight" in name)
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((dino_folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"lacks 1 tensors of a ViTModel \(.*weight\)"):
        Dino(tmp_path)


def test_a_dino_for_pictures_of_another_size_is_refused(dino_folder, tmp_path):
    config = json.loads((dino_folder / "config.json").read_text()) | {"image_size": 64}
    weights = load_file(dino_folder / "model.safetensors")
    place = next(name for name in weights if "position_embeddings" in name)
    save_file(weights | {place: weights[place][:, :5].contiguous()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="sees pictures of 64 pixels: expected a DINO model for 224"):
        Dino(tmp_path)
