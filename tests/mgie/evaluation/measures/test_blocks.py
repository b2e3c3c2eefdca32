"""Sizes, crops and values of prepared pictures, to the byte, as torchvision's chains make them."""

import hashlib

import numpy as np
import pytest
import torch
from benchmark_data import pic
from PIL import Image

from mgie.evaluation.measures.blocks import (
    DINO_PREP,
    at_size,
    center_crop,
    clip_prep,
    prepared,
    short,
    to_unit,
)
from mgie.evaluation.published.protocol import Squash

TABLE = [
    ((256, 256), "f28011b52a1c", 18166017, "cfe229f65dfb8c75", 17910067, "bc7d9c9eac69c330"),
    ((300, 231), "c5b094c8cbc4", 18092036, "65913df8f3439913", 17750166, "ea7736a7fd7c6ce6"),
    ((231, 300), "3a12cb23b89d", 17721925, "776582fe05d6e23d", 17592950, "5fa9313794f70598"),
    ((227, 224), "83e1c8e53bf0", 18141390, "8c25701e2429fdd1", 17886163, "2b8dc511e6eae492"),
    ((1024, 701), "7bbde5c76865", 17950228, "523811a90e1c7ecf", 17551677, "3909d087c6ea9db9"),
]
"""Size, then hash of the picture, then sum and hash after 224/224 and after 256/224 (torchvision on PIL)."""
RESIZED = {(300, 231): (290, 224), (231, 300): (224, 290), (227, 224): (227, 224), (1024, 701): (327, 224)}


def digest(picture):
    return hashlib.sha256(picture.tobytes()).hexdigest()


@pytest.mark.parametrize(("size", "whole", "sum224", "sha224", "sum256", "sha256"), TABLE)
def test_five_sizes_through_two_chains(size, whole, sum224, sha224, sum256, sha256):
    picture = pic(7, *size)
    assert digest(picture)[:12] == whole
    for side, total, sha in ((224, sum224, sha224), (256, sum256, sha256)):
        cropped = center_crop(short(picture, side), 224)
        assert np.asarray(cropped, int).sum() == total and digest(cropped)[:16] == sha


def test_the_longer_side_is_cut_to_a_whole_number_and_what_fits_is_not_resampled():
    for size, small in RESIZED.items():
        assert short(pic(7, *size), 224).size == small
    picture = pic(7, 227, 224)
    assert short(picture, 224) is picture and at_size(picture, (227, 224)) is picture


@pytest.mark.parametrize(
    ("margin", "left"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4), (8, 4), (9, 4), (35, 18)],
)
def test_half_a_pixel_of_margin_is_rounded_half_to_even(margin, left):
    ramp = np.broadcast_to(np.arange(20 + margin, dtype=np.uint8)[None, :, None], (20, 20 + margin, 3))
    assert np.asarray(center_crop(Image.fromarray(ramp.copy()), 20))[0, 0, 0] == left
    tall = Image.fromarray(ramp.transpose(1, 0, 2).copy())
    assert np.asarray(center_crop(tall, 20))[0, 0, 0] == left


def test_transformers_crops_elsewhere_where_a_margin_is_3():
    """Why its processors are not used: one column off. Where the margin is even, they agree."""
    from transformers import CLIPImageProcessorPil

    theirs = CLIPImageProcessorPil()
    for size, equal in (((227, 224), False), ((226, 224), True), ((300, 224), True)):
        picture = pic(7, *size)
        seen = torch.as_tensor(theirs(images=[picture], return_tensors="pt")["pixel_values"])[0]
        far = (seen - prepared(picture, clip_prep(224))).abs().max().item()
        assert (far < 1e-5) == equal, (size, far)


def test_values_are_less_the_mean_by_the_deviation():
    grey = Image.new("RGB", (300, 260), (51, 102, 204))
    seen = prepared(grey, DINO_PREP)
    assert seen.shape == (3, 224, 224)
    expected = [(0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.8 - 0.406) / 0.225]
    assert seen[:, 5, 5].tolist() == pytest.approx(expected, abs=1e-6)
    assert prepared(grey, clip_prep(336)).shape == (3, 336, 336)


def test_a_squashed_picture_is_whole_and_not_antialiased():
    """InstructPix2Pix's chain: interpolated as numbers, so it is not Pillow's; its script's numbers are in
    [-1, 1] where [0, 1] is meant."""
    picture = pic(7, 96, 80)
    plain, signed = (prepared(picture, Squash(squash=32, colours="clip", signed=s)) for s in (False, True))
    assert plain.shape == (3, 32, 32) and not torch.allclose(plain, signed, atol=0.1)
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711)).reshape(3, 1, 1)
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).reshape(3, 1, 1)
    assert torch.allclose(signed * std + mean, 2 * (plain * std + mean) - 1, atol=1e-5)
    pillow = to_unit(picture.resize((32, 32), Image.Resampling.BICUBIC))
    assert (plain * std + mean - pillow).abs().mean() > 0.005
