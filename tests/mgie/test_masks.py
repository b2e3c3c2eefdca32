"""Masks as users give them, and edits inside them, on the recipe's own small parts."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from PIL import Image

from mgie.controllers.region import RegionOptions
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.masks import Phrase, check_finding, check_where, fitted_mask, read_mask, where_of
from mgie.pipeline import MGIEPipeline
from mgie.types import ControlPlan
from mgie.weights.release import Release

# What the library's schedulers do to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HARD = RegionOptions(feather=0.0)
RNG = np.random.default_rng(0)


def photo(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def blob(width: int, height: int, seed: int = 0) -> Image.Image:
    """A random mask of some connected parts."""
    values = np.random.default_rng(seed).integers(0, 2, (5, 6), dtype=np.uint8) * 255
    values[2, 2], values[0, 0] = 255, 0
    return Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)


def outside(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask) < 128


# What comes out.


@pytest.mark.parametrize("kind", [None, EulerDiscreteScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("size", [(32, 32), (45, 37), (90, 41)], ids=str)
def test_outside_the_mask_every_byte_is_the_photo_s(pipe: MGIEPipeline, kind, size):
    if kind is not None:
        pipe.scheduler = kind.from_config(pipe.process.schedule.config)
    before, mask = photo(*size), blob(*size)
    result = pipe(before, "make it darker", mask=mask, region=HARD, seed=0, num_inference_steps=3)
    after, there = np.asarray(result.images[0]), outside(mask)
    assert np.array_equal(after[there], np.asarray(before)[there]) and there.any()
    assert not np.array_equal(after[~there], np.asarray(before)[~there])
    assert result.outside_change == [0.0] and np.array_equal(np.asarray(result.mask[0]), np.asarray(mask))


def test_two_photos_with_masks_of_their_own(pipe: MGIEPipeline):
    photos, masks = [photo(40, 40, 1), photo(40, 40, 2)], [blob(40, 40, 1), blob(40, 40, 2)]
    options = {"region": HARD, "seed": 0, "num_inference_steps": 3}
    both = pipe(photos, "make it darker", mask=masks, **options)
    for row, (before, mask) in enumerate(zip(photos, masks)):
        there = outside(mask)
        assert np.array_equal(np.asarray(both.images[row])[there], np.asarray(before)[there])
        alone = pipe(before, "make it darker", mask=mask, **options).images[0]
        apart = np.asarray(both.images[row]).astype(int) - np.asarray(alone)
        assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("times", [1, 2], ids=["as edited", "larger"])
def test_a_feather_is_a_ring_and_beyond_it_nothing_changes(pipe: MGIEPipeline, times: int):
    side = times * pipe.size
    before = photo(side, side)
    wide = RegionOptions(feather=512 * 4 / side)  # four pixels here
    box = (0.25, 0.25, 0.5, 0.5)
    soft, hard = (
        np.asarray(
            pipe(before, "make it darker", mask=box, region=r, seed=0, num_inference_steps=3).images[0]
        )
        for r in (wide, HARD)
    )
    changed = (soft != np.asarray(before)).any(axis=-1)
    first, last = side // 4, side // 2
    assert not changed[: first - 4].any() and not changed[last + 5 :].any()
    assert changed[first - 3 : first].any() and changed[last : last + 3].any()
    assert np.array_equal(soft[first:last, first:last], hard[first:last, first:last])


def test_a_mask_of_everything_changes_nothing(pipe: MGIEPipeline):
    before = photo(45, 37)
    given = {"seed": 0, "num_inference_steps": 3}
    plain = pipe(before, "make it darker", **given)
    assert plain.mask is None and plain.outside_change is None and len(plain.to_tuple()) == 3
    for options in (RegionOptions(), RegionOptions(attention=True), RegionOptions(features=True)):
        whole = pipe(
            before, "make it darker", mask=(0, 0, 1, 1), region=options, seed=0, num_inference_steps=3
        )
        assert np.array_equal(np.asarray(whole.images[0]), np.asarray(plain.images[0]))
        assert whole.outside_change == [0.0]


def test_a_mask_of_nothing_gives_the_photo_back_unsampled(pipe: MGIEPipeline):
    before, black = photo(45, 37), Image.new("L", (45, 37))
    pipe.denoiser.register_forward_pre_hook(lambda *_: pytest.fail("it was sampled"))
    for preserve in ("exact", "soft", "none"):
        result = pipe(before, "make it darker", mask=black, preserve=preserve, seed=0)
        assert np.array_equal(np.asarray(result.images[0]), np.asarray(before))
    pipe.denoiser._forward_pre_hooks.clear()
    two = pipe([before, before], "make it darker", mask=[black, (0, 0, 1, 1)], seed=0, num_inference_steps=2)
    same = [np.array_equal(np.asarray(image), np.asarray(before)) for image in two.images]
    assert same == [True, False]


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_arrays_and_tensors_are_exact_at_the_size_of_the_editing(pipe: MGIEPipeline, kind: str):
    before, box = photo(45, 37), (0, 0, 0.5, 1)
    given = {"seed": 0, "num_inference_steps": 2, "output_type": kind}
    result = pipe(before, "make it darker", mask=box, region=HARD, **given)
    untouched = pipe(before, "make it darker", mask=Image.new("L", (45, 37)), **given)
    wide = [np.asarray(each.images[0]) for each in (result, untouched)]
    if kind == "pt":
        wide = [each.transpose(1, 2, 0) for each in wide]
    half = wide[0].shape[1] // 2 + 1
    assert np.array_equal(wide[0][:, half:], wide[1][:, half:]) and result.outside_change == [0.0]
    assert not np.array_equal(wide[0][:, : half - 2], wide[1][:, : half - 2])


def test_softly_and_not_at_all_preserved(pipe: MGIEPipeline):
    before, box, given = photo(64, 64), (0, 0, 0.5, 1), {"seed": 0, "num_inference_steps": 4}
    plain = pipe(before, "make it darker", **given).images[0]
    changes = {}
    for preserve in ("exact", "soft", "none"):
        result = pipe(before, "make it darker", mask=box, preserve=preserve, region=None, **given)
        changes[preserve] = result.outside_change[0]
        if preserve == "none":
            assert np.array_equal(np.asarray(result.images[0]), np.asarray(plain))
    assert changes["exact"] == 0 < changes["soft"] and changes["none"] > 0
    latents = pipe(before, "make it darker", mask=box, preserve="soft", output_type="latent", **given)
    assert isinstance(latents.images, torch.Tensor) and latents.outside_change is None


@pytest.mark.parametrize(
    "asked", [{"features": True}, {"attention": True}, {"features": True, "attention": True}]
)
def test_features_and_words_are_held_outside(pipe: MGIEPipeline, asked: dict):
    before, box, given = photo(32, 32), (0, 0, 0.5, 1), {"seed": 0, "num_inference_steps": 3}
    changed = pipe(before, "make it darker", mask=box, region=replace(HARD, **asked), **given)
    plain = pipe(before, "make it darker", mask=box, region=HARD, **given)
    assert changed.outside_change == [0.0]
    images = [np.asarray(each.images[0]) for each in (changed, plain)]
    assert not np.array_equal(*images)
    again = pipe(before, "make it darker", mask=box, region=HARD, **given)
    assert np.array_equal(np.asarray(again.images[0]), images[1])  # nothing is left behind


def test_the_latents_outside_are_the_photo_s_at_the_level_of_every_step(pipe: MGIEPipeline):
    """Scaled, as the denoiser knows them: those beside the noise are not."""
    before, found = photo(64, 64), []

    def note(_pipe, _step, _t, given):
        found.append(given["latents"])
        return {}

    options = {"seed": 0, "num_inference_steps": 3, "callback_on_step_end": note}
    pipe(before, "make it darker", mask=(0, 0, 0.5, 1), region=HARD, **options)
    pixels = torch.from_numpy(np.array(before)).permute(2, 0, 1)[None] / 127.5 - 1
    mean, std = pipe.codec.moments(pixels)
    scaled = pipe.codec.target_latents(mean, std, torch.zeros_like(mean))
    right = slice(scaled.shape[-1] // 2, None)
    assert torch.allclose(found[-1][..., right], scaled[..., right], atol=1e-5)
    assert not torch.allclose(mean, scaled, atol=0.01)


def test_threads_with_masks_of_their_own_do_not_meet(pipe: MGIEPipeline):
    def edited(row: int) -> np.ndarray:
        region = replace(HARD, attention=bool(row % 2), features=row > 1)
        result = pipe(photo(), "make it darker", mask=blob(32, 32, row), region=region, seed=row,
                      num_inference_steps=3)  # fmt: skip
        return np.asarray(result.images[0])

    alone = [edited(row) for row in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(edited, range(4)))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together))


def test_half_precision(release: Release):
    pipe = MGIEPipeline.from_release(copy.deepcopy(release)).to(torch.bfloat16)  # the others keep theirs
    pipe.set_progress_bar_config(disable=True)
    before, mask, given = photo(), blob(32, 32), {"seed": 0, "num_inference_steps": 2}
    for asked in ({"features": True}, {"attention": True}):
        region = replace(HARD, **asked)
        after = np.asarray(pipe(before, "make it darker", mask=mask, region=region, **given).images[0])
        there = outside(mask)
        assert np.array_equal(after[there], np.asarray(before)[there]) and after[~there].std() > 0


# Masks that nobody drew.


def test_a_mask_is_found_where_the_words_matter(pipe: MGIEPipeline):
    """It depends on picture and words alone: not on the seed, nor on what else is edited."""
    photos, options = [photo(45, 37, 1), photo(64, 64, 2)], {"region": HARD, "num_inference_steps": 2}
    both = pipe(photos, "make it darker", mask="auto", seed=0, **options)
    for row, before in enumerate(photos):
        alone = pipe(before, "make it darker", mask="auto", seed=3, **options)
        mask = np.asarray(alone.mask[0])
        assert mask.shape == (before.height, before.width) and 0 < (mask > 0).mean() < 1
        assert np.array_equal(np.asarray(both.mask[row]), mask) and alone.outside_change == [0.0]
        after, there = np.asarray(alone.images[0]), outside(alone.mask[0])
        assert np.array_equal(after[there], np.asarray(before)[there])
        assert not np.array_equal(after[~there], np.asarray(before)[~there])
    box = (0, 0, 0.5, 1)
    mixed = pipe(photos, "make it darker", mask=[box, "auto"], seed=0, **options)
    assert np.array_equal(np.asarray(mixed.mask[0]) > 0, fitted_mask(box, (45, 37)))
    assert np.array_equal(np.asarray(mixed.mask[1]), np.asarray(both.mask[1]))
    wide = replace(HARD, grow=32.0)
    grown = pipe(photos[1], "make it darker", mask="auto", region=wide, seed=0, num_inference_steps=2)
    assert (np.asarray(grown.mask[0]) > 0).sum() > (np.asarray(both.mask[1]) > 0).sum()
    assert (np.asarray(grown.mask[0]) >= np.asarray(both.mask[1])).all()


def test_words_that_change_nothing_have_no_mask():
    where = where_of("auto", [photo(), photo()])
    assert where is not None and where.auto == (0, 1) and where.masks[0].all()
    contrasts = {0: torch.ones(1, 4, 4), 1: torch.zeros(1, 4, 4)}
    with pytest.raises(DataError, match="no mask was found for picture 2: its words change nothing"):
        where.found(contrasts)
    peak = torch.zeros(1, 16, 16)
    peak[:, 3, 3] = 1
    found = where_of("auto", [photo(5, 5)]).found({0: peak})  # a photo smaller than its latents
    assert found.masks[0].sum() >= 1 and not found.auto


def test_imagined_once_and_painted_many_times(pipe: MGIEPipeline):
    before, given = photo(45, 37), {"region": HARD, "num_inference_steps": 2, "seed": 1}
    imagined = pipe.imagine(before, "make it darker")
    for mask in ((0, 0, 0.5, 1), blob(45, 37), "auto"):
        whole = pipe(before, "make it darker", mask=mask, **given)
        (painted,) = pipe.paint(before, imagined, mask=mask, **given)
        assert np.array_equal(np.asarray(painted), np.asarray(whole.images[0]))
    plain = pipe.paint(before, imagined, num_inference_steps=2, seed=1)
    assert not np.array_equal(np.asarray(plain[0]), np.asarray(painted))
    with pytest.raises(ConfigError, match="is a promise about pixels"):
        pipe.paint(before, imagined, mask="auto", output_type="latent")
    with pytest.raises(ConfigError, match="the controls plan and mask both have blend"):
        pipe.paint(before, imagined, mask="auto", plan=ControlPlan(blend=lambda latents, _: latents), **given)


# What is refused.


def test_masks_that_do_not_fit(pipe: MGIEPipeline):
    before = photo(45, 37)

    def refused(kind: type, words: str, **asked) -> None:
        with pytest.raises(kind, match=words):
            pipe(before, "make it darker", **asked)

    box = (0, 0, 0.5, 1)
    refused(DataError, "37 x 45 pixels and the photo 45 x 37", mask=Image.new("L", (37, 45), 255))
    refused(DataError, "box is 0, 0, 10, 20: expected x0, y0, .* divide pixels by", mask=(0, 0, 10, 20))
    refused(DataError, "with x0 < x1", mask=(0.5, 0, 0.5, 1))
    refused(DataError, "with x0 < x1", mask=(0.5, 0, float("nan"), 1))
    refused(DataError, "has 3 numbers: expected four", mask=(0.1, 0.2, 0.3))
    with pytest.raises(DataError, match=r"is a ndarray: .*Image.fromarray makes one"):
        where_of(np.zeros((37, 45), dtype=np.uint8), [before])
    refused(DataError, "2 masks for 1 photos", mask=[box, box])
    with pytest.raises(DataError, match="is a str: expected a mask"):
        where_of("mask.png", [before])
    with pytest.raises(ConfigError, match="preserve is 'exactly': expected exact, soft, none"):
        check_where(True, "exactly", None)
    refused(ConfigError, "but there is none", preserve="soft")
    refused(ConfigError, "but there is none", region=HARD)
    refused(ConfigError, "is a promise about pixels", mask=box, output_type="latent")
    refused(ConfigError, "which has no masks", mask=box, compat="reference")
    refused(ConfigError, "region.feather=-1.0: expected", mask=box, region=RegionOptions(feather=-1.0))


def test_what_a_denoiser_does_not_heed_is_refused(pipe: MGIEPipeline, monkeypatch):
    monkeypatch.setattr(type(pipe.denoiser), "heeds", frozenset({"attention"}))
    with pytest.raises(ConfigError, match=r"region asks for features, but the denoiser .* heeds attention"):
        pipe(photo(), "make it darker", mask=(0, 0, 1, 0.5), region=RegionOptions(features=True))


# How masks are read.


def test_masks_are_read_from_files_and_boxes(tmp_path):
    assert read_mask("0.1,0.2,0.5,0.9") == (0.1, 0.2, 0.5, 0.9)
    path = tmp_path / "0,0,1,1"
    blob(12, 10).save(path, format="PNG")
    found = read_mask(str(path))
    assert isinstance(found, Image.Image) and found.size == (12, 10)
    assert read_mask("auto") == "auto" and read_mask("phrase: the dog") == Phrase(words="the dog")
    for wrong, words in (
        ("phrase: ", "names nothing: expected words"),
        ("0,0,2,2", "box is 0, 0, 2, 2: expected"),
        ("none.png", "there is no mask none.png"),
        ("a,b,c,d", "no mask"),
    ):
        with pytest.raises(DataError, match=words):
            read_mask(wrong)


def test_masks_of_nearly_the_photo_s_shape_are_fitted():
    mask = Image.new("L", (50, 40))
    mask.paste(255, (0, 0, 25, 40))
    inside = fitted_mask(mask, (101, 80))
    assert inside.shape == (80, 101) and inside[:, :49].all() and not inside[:, 52:].any()
    hole = Image.new("RGBA", (10, 10), (9, 9, 9, 255))
    hole.putpixel((3, 4), (0, 0, 0, 0))
    assert np.argwhere(fitted_mask(hole, (10, 10))).tolist() == [[4, 3]]
    assert fitted_mask((0.0, 0.0, 0.001, 0.001), (10, 10)).sum() == 1  # never less than a pixel
    grown = where_of((0.4, 0.4, 0.6, 0.6), [photo(10, 10)], options=RegionOptions(grow=512 / 10 * 1.5))
    assert grown is not None and grown.masks[0].sum() == 4 + 8 + 4


def test_masks_of_every_kind_of_picture():
    """8 and 16 bits, one bit, palettes, colours, transparency, turned ones: the same upper half."""
    grey = np.zeros((37, 45), dtype=np.uint8)
    grey[:20] = 255
    plain = Image.fromarray(grey)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    drawn = Image.fromarray(np.dstack([np.full((37, 45, 3), 255, np.uint8), grey]))
    hole = Image.fromarray(np.dstack([np.full((37, 45, 3), 90, np.uint8), 255 - grey]))
    turned = Image.fromarray(np.rot90(grey).copy())
    turned.getexif()[0x0112] = 6
    kinds = [plain.convert(mode) for mode in ("1", "P", "RGB", "CMYK", "LA", "RGBA")]
    for mask in (plain, wide, drawn, hole, turned, *kinds):
        assert np.array_equal(fitted_mask(mask, (45, 37)), grey > 0), mask.mode
    box = np.float32([0, 0, 1, 0.5])
    assert fitted_mask(tuple(box), (10, 10)).sum() == 50 and where_of(tuple(box), [photo()]).masks[0].any()
    for mode in ("RGBA", "P", "1", "I;16"):  # black in every mode is no slip
        assert not fitted_mask(Image.new("L", (45, 37)).convert(mode), (45, 37)).any()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_a_mask_of_zeros_and_ones_is_a_slip(kind: type):
    labels = np.zeros((37, 45), dtype=kind)
    labels[:20] = 1
    with pytest.raises(DataError, match="values go up to 1, so nothing in it is white: expected 255"):
        fitted_mask(Image.fromarray(labels), (45, 37))
    with pytest.raises(DataError, match="go up to 127"):
        fitted_mask(Image.new("L", (45, 37), 127), (45, 37))


def test_only_a_phrase_is_to_be_found(tmp_path):
    box, dog = (0.0, 0.0, 1.0, 1.0), Phrase(words="the dog")
    check_finding(box, None, None)
    for mask in (box, None, "auto"):
        with pytest.raises(ConfigError, match="find what a mask names in words, but there are none"):
            check_finding(mask, tmp_path, None)
    with pytest.raises(ConfigError, match="no model that reads words: give --detector"):
        check_finding(dog, None, None)
    with pytest.raises(WeightsError, match="is no model folder"):
        check_finding(dog, tmp_path, None)
