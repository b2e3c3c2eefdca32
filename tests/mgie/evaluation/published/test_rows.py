"""Which weights a protocol knows, and what a result says of those that it does not."""

from dataclasses import replace

import pytest

from mgie.errors import ConfigError, WeightsError
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.features import Clip, Dino
from mgie.evaluation.published.protocol import Crop, Weights, find_protocol
from mgie.evaluation.published.rows import check_eyes


@pytest.fixture(scope="module")
def eyes(clip_folder, dino_folder):
    return Eyes(clip=Clip(clip_folder), dino=Dino(dino_folder))


def pinned(**hashes):
    """MagicBrush's protocol, with hashes of the files of some models."""
    protocol = find_protocol("magicbrush")
    weights = dict(protocol.weights)
    for model, sha in hashes.items():
        weights[model] = Weights(repo=weights[model].repo, sha256={"model.safetensors": sha})
    return replace(protocol, weights=weights)


def test_what_nobody_pinned_is_said(eyes):
    assert check_eyes(find_protocol("magicbrush"), eyes) == ["clip", "dino"]
    known = {model: each["model.safetensors"] for model, each in eyes.hashes.items()}
    assert check_eyes(pinned(clip=known["clip"]), eyes) == ["dino"]
    assert check_eyes(pinned(**known), eyes) == []


def test_other_weights_than_the_pinned_ones_are_refused_unless_asked_for(eyes):
    with pytest.raises(WeightsError, match=r"--dino has another model.safetensors than magicbrush/1#.* pins"):
        check_eyes(pinned(dino="0" * 64), eyes)
    assert check_eyes(pinned(dino="0" * 64), eyes, unpinned=True) == ["clip", "dino"]


def test_a_model_for_pictures_of_another_size_is_refused(eyes):
    larger = Crop(short=336, crop=336, colours="clip")
    protocol = find_protocol("magicbrush")
    metrics = {"clip_i": replace(protocol.metrics["clip_i"], prep=larger)}
    with pytest.raises(
        WeightsError, match=r"sees 224 pixels and .* shows 336: give a download of openai/clip"
    ):
        check_eyes(replace(protocol, metrics=metrics), eyes)


def test_a_model_that_is_measured_with_must_be_given(eyes):
    with pytest.raises(ConfigError, match="measures with dino: give --dino"):
        check_eyes(find_protocol("magicbrush"), Eyes(clip=eyes.clip))
