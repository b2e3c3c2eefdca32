"""Metrics against values worked out by hand, and against the models that give the features."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.errors import ConfigError, WeightsError
from mgie.evaluation.metrics import PIXEL_METRICS, ClipScores, DinoScores, l1, l2, psnr, ssim


@pytest.fixture
def two():
    """Two examples: one exactly as it should be, one black where it should be white."""
    target = torch.stack([torch.linspace(-1, 1, 3 * 16 * 16).reshape(3, 16, 16), torch.ones(3, 16, 16)])
    output = target.clone()
    output[1] = -1
    return output, target


def test_distances_are_between_0_and_1_and_one_for_each_example(two):
    assert l1(*two).tolist() == [0, 1]
    assert l2(*two).tolist() == [0, 1]
    assert l1(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4)).item() == pytest.approx(0.25)
    assert l2(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4)).item() == pytest.approx(0.0625)


def test_psnr_and_ssim_are_for_each_example_by_itself(two):
    output, target = two
    output = output + torch.tensor([0.2, 0.0]).reshape(2, 1, 1, 1)
    assert psnr(output, target).tolist() == pytest.approx([20, 0], abs=1e-3)  # 10 log10(2 ** 2 / 0.2 ** 2)
    assert ssim(target, target).tolist() == pytest.approx([1, 1])
    assert ssim(output, target)[0] == ssim(output[:1], target[:1])[0] > ssim(output, target)[1]


def test_ssim_of_a_picture_that_is_too_small_is_a_sentence():
    with pytest.raises(ConfigError, match="8 x 4"):
        ssim(torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 4, 8))


def test_every_metric_gives_one_number_for_each_example(two):
    for measure in PIXEL_METRICS.values():
        assert measure(*two).shape == (2,)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["a", "b", "c", "d", "e", "r", "a</w>", "d</w>", "e</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    text = small | {"vocab_size": 11, "max_position_embeddings": 6, "eos_token_id": 10, "bos_token_id": 9}
    vision = small | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": 16}
    CLIPImageProcessorPil(size=size, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures():
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (20, 24, 3), np.uint8)) for _ in range(3)]


def test_clip_scores_are_cosines(clip_folder, pictures):
    scores = ClipScores(clip_folder)
    assert scores.clip_i(pictures, pictures).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    other = scores.clip_i(pictures[:2], pictures[1:])
    assert (other < 1 - 1e-5).all()
    alone = scores.clip_i(pictures[:1], pictures[1:2])
    assert alone[0].item() == pytest.approx(other[0].item(), abs=1e-5)
    words = ["a red d", "bad " * 40, "e"]
    with torch.no_grad():
        seen = scores.processor(images=pictures, return_tensors="pt")["pixel_values"]
        read = scores.tokenizer(words, padding=True, truncation=True, max_length=6, return_tensors="pt")
        whole = scores.model(pixel_values=seen, **read)
    expected = (whole.image_embeds * whole.text_embeds).sum(-1)
    assert torch.allclose(scores.clip_t(pictures, words), expected, atol=1e-5)


def test_dino_scores_are_cosines(dino_folder, pictures):
    scores = DinoScores(dino_folder)
    assert scores.dino(pictures, pictures).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert (scores.dino(pictures[:2], pictures[1:]) < 1 - 1e-5).all()


def test_a_folder_that_is_no_model_says_what_was_expected(tmp_path):
    with pytest.raises(WeightsError, match="--clip expects a local folder"):
        ClipScores(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        DinoScores(tmp_path)
