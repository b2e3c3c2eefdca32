"""Mask, regions, one's own subjects and pictures in one edit; and what cannot be had together."""

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.build import build_editor, build_release
from mgie.config import load_run
from mgie.controllers.region import RegionOptions
from mgie.controllers.session import LayoutSession
from mgie.errors import ConfigError, DataError
from mgie.personalization.start_options import SubjectStart
from mgie.pipeline import MGIEPipeline
from mgie.types import Region
from mgie.weights.adapter import write_adapter
from mgie.weights.release import read_release

BOX = (0.1, 0.1, 0.6, 0.6)
SIZE = (48, 40)


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def regions(phrase: str = "a red circle") -> list[Region]:
    return [Region(phrase=phrase, box=(0.1, 0.1, 0.4, 0.4)), Region(phrase="b", box=(0.3, 0.3, 0.6, 0.6))]


PHOTO = picture(0, SIZE)
WORDS = "replace the olis cup and the hta hat in <source> by <image>"
ALL = {"images": [picture(1)], "mask": BOX, "regions": regions(), "start": SubjectStart(gamma=0.5)}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Of the tiny UNet, with random weights."""
    unet = build_editor(load_run("tiny")).editor.denoiser.unet
    rng, tensors = torch.Generator().manual_seed(0), {}
    for name, layer in unet.named_modules():
        if name.endswith("attn1.to_v"):
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, layer.in_features, generator=rng)
            tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=rng)
    learnt = {name: (name, [picture(5).convert("RGBA")]) for name in ("olis cup", "hta hat")}
    told = {"base": "tiny", "identity": "", "run_yaml": ""}
    return write_adapter(tmp_path_factory.mktemp("adapter") / "a", tensors, learnt=learnt, **told)


@pytest.fixture(scope="module")
def editor() -> MGIEPipeline:
    """LLaVA and a UNet that read pictures, by random weights where they begin at zero."""
    run = load_run("tiny", ["--model.encoder.references=true"])
    release = build_release(build_editor(run), run)
    rng = torch.Generator().manual_seed(0)
    for name, value in release.editor.encoder.references.named_parameters():
        if "mlp" in name or "to_v" in name:
            value.data.normal_(generator=rng)
    pipeline = MGIEPipeline.from_release(release)
    pipeline.register_to_config(max_new_tokens=4, num_inference_steps=2)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def mige_editor(mige_folder) -> MGIEPipeline:
    pipeline = MGIEPipeline.from_release(read_release(mige_folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edited(pipeline: MGIEPipeline, **controls) -> np.ndarray:
    result = pipeline(PHOTO, WORDS, seed=0, region=RegionOptions(feather=0.0, seam=0.0), **controls)
    if controls.get("mask"):
        assert result.outside_change == [0.0]
    return np.asarray(result.images[0])


def test_all_in_one_edit_and_each_has_its_say(editor, adapter):
    editor.load_subjects(adapter)
    together = edited(editor, **ALL)
    inside = np.zeros(SIZE[::-1], dtype=bool)
    inside[5:23, 6:28] = True  # well within the box
    photo = np.asarray(PHOTO)
    assert (together != photo)[inside].mean() > 0.5 and np.array_equal(together[30:], photo[30:])
    others = {"images": [picture(2)], "regions": regions("a blue square"), "start": SubjectStart(gamma=0.1)}
    for name, other in others.items():
        changed = edited(editor, **ALL | {name: other})
        assert (changed != together)[inside].any(), name
    assert np.array_equal(edited(editor, **ALL), together)
    editor.unload_subjects()
    worn = edited(editor, **{name: value for name, value in ALL.items() if name != "start"})
    editor.load_subjects(adapter)
    without = edited(editor, **{name: value for name, value in ALL.items() if name != "start"})
    assert (worn != without)[inside].any()


def test_deep_features_and_words_heard_inside_alone_go_with_them(editor, adapter):
    editor.unload_subjects()
    editor.load_subjects(adapter)
    plain = editor(PHOTO, WORDS, seed=0, **ALL)
    masked = editor(PHOTO, WORDS, seed=0, **ALL, region=RegionOptions(features=True, attention=True))
    assert masked.outside_change == plain.outside_change == [0.0] and masked.images != plain.images


def test_mige_s_pictures_go_with_masks_and_regions(mige_editor):
    words = "replace the circle in <source> by <image>"

    def made(**changes):
        told = {"images": [picture(1)], "mask": BOX, "regions": regions("red circle")} | changes
        result = mige_editor(PHOTO, words, seed=0, **told)
        assert result.outside_change == [0.0]
        return result.images[0]

    together = made()
    assert made() == together
    assert made(images=[picture(2)]) != together
    assert made(regions=regions("dark square")) != together
    assert made(region=RegionOptions(attention=True)) != together


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"regions": regions("a <image>")}, DataError, "region 1 has <image> in its phrase"),
        ({"mask": Image.new("L", SIZE)}, DataError, "region 1 lies wholly outside the mask"),
        ({"mask": Image.new("L", (10, 90), 255)}, DataError, "the mask has 10 x 90 pixels and the photo"),
        ({"images": [picture(1), picture(2)]}, DataError, "<image> 1 times and came with 2 pictures"),
        ({"images": None}, DataError, "<image> 1 times and came with 0 pictures"),
        ({"session": LayoutSession()}, ConfigError, "cannot be had with a session"),
        ({"session": LayoutSession(), "start": None}, ConfigError, "without a mask"),
        ({"compat": "reference"}, ConfigError, 'cannot be had with compat="reference"'),
        ({"compat": "reference"} | dict.fromkeys(("start", "mask", "regions")), ConfigError, "words alone"),
        ({"output_type": "latent"}, ConfigError, "a promise about pixels"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_together(editor, adapter, changes, kind, sentence):
    editor.unload_subjects()
    editor.load_subjects(adapter)
    with pytest.raises(kind, match=sentence):
        editor(PHOTO, WORDS, seed=0, **ALL | changes)


def test_what_mige_s_transformer_cannot_have(mige_editor, adapter):
    words, told = "replace the circle in <source> by <image>", {"images": [picture(1)], "mask": BOX}
    with pytest.raises(ConfigError, match="is an adapter of a UNet, and PixArtDenoiser paints here"):
        mige_editor.load_subjects(adapter)
    with pytest.raises(ConfigError, match="asks for features, but the denoiser"):
        mige_editor(PHOTO, words, seed=0, **told, region=RegionOptions(features=True))
    with pytest.raises(ConfigError, match="a mask says what of a photo"):
        mige_editor(None, "a <image>", seed=0, **told)
