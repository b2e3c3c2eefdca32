import inspect
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mgie.errors import ConfigError, DataError
from mgie.pipeline import MGIEPipeline
from mgie.request import pairs_of
from mgie.weights.release import Release


def photo() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((32, 32))


@pytest.mark.parametrize("prompt", ["", "make it </s>", "[IMG0] darker", "<image>"])
def test_an_instruction_that_is_none(pipe: MGIEPipeline, prompt: str):
    with pytest.raises(DataError, match=r"the instruction (is empty: say in words|holds .* no word)"):
        pipe(photo(), prompt)


def test_an_instruction_that_the_language_model_has_no_places_for(pipe: MGIEPipeline):
    with pytest.raises(DataError, match=r"the language model reads 512 in all.*shorten the instruction"):
        pipe(photo(), "darker " * 600)


def test_a_release_whose_own_settings_cannot_be(release: Release):
    strange = replace(release, settings={**release.settings, "num_inference_steps": 0})
    with pytest.raises(ConfigError, match="steps=0"):
        MGIEPipeline.from_release(strange)(photo(), "darker")


def test_pictures_that_are_none_and_lists_that_do_not_fit(pipe: MGIEPipeline):
    pairs = inspect.unwrap(pairs_of)
    for image in ("photo.png", ["photo.png"], [None]):
        with pytest.raises(
            DataError, match=r"is a (str|NoneType): expected one PIL picture \(PIL.Image.open"
        ):
            pairs(image, "darker")
    for prompt in (None, ["darker", 1]):
        with pytest.raises(DataError, match=r"is a (NoneType|int): expected one instruction, or a list"):
            pairs(photo(), prompt)
    assert [len(each) for each in pairs([photo()] * 2, "darker")] == [2, 2]
    assert [len(each) for each in pairs(photo(), ["darker", "warmer"])] == [2, 2]
    with pytest.raises(DataError, match="2 pictures and 3 instructions"):
        pipe([photo()] * 2, ["darker"] * 3)
    with pytest.raises(DataError, match="0 pictures"):
        pipe([], "darker")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_inference_steps": 0}, "steps=0: expected a whole number, at least 1"),
        ({"size": 4}, "size=4: expected at least 16 pixels"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"num_inference_steps": 1001}, "steps=1001: expected at most 1000"),
        ({"size": 16384}, "choose a smaller size"),
        ({"seed": [1, -1]}, r"seed\[1\]=-1"),
        ({"seed": [1, 2, 3]}, "3 seeds for 1 pictures"),
        ({"seed": 1, "generator": torch.Generator()}, "both seed and generator"),
        ({"generator": []}, "0 generators for 1 pictures"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 pictures"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "callbacks get latents, there are no noise"),
    ],
)
def test_options_that_cannot_be(pipe: MGIEPipeline, options: dict, sentence: str, monkeypatch):
    """Refused before any work is done."""
    monkeypatch.delattr(MGIEPipeline, "_imagine")
    with pytest.raises(ConfigError, match=sentence):
        pipe(photo(), "darker", **options)


def test_an_output_that_cannot_be(pipe: MGIEPipeline, monkeypatch):
    """Also where nobody checks types."""
    monkeypatch.delattr(MGIEPipeline, "_imagine")
    unchecked = inspect.unwrap(MGIEPipeline.__call__)
    with pytest.raises(ConfigError, match="output_type is 'jpeg': expected pil, np, pt, latent"):
        unchecked(pipe, photo(), "darker", output_type="jpeg")
