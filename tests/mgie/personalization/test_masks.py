"""Masks of things that models find, as far as they are the thing."""

import numpy as np
import pytest
from PIL import Image

from mgie.errors import ConfigError, DataError
from mgie.models.finders import Detection, Finder
from mgie.personalization.masks import check_mask_finders, make_masks, thing_mask, tidied, wider
from mgie.personalization.prior import write_prior
from mgie.personalization.subjects import load_prior, load_subjects, mask_name

SURE = Detection(box=(0.25, 0.25, 0.75, 0.75), score=0.9)
LESS = Detection(box=(0.0, 0.0, 0.2, 0.2), score=0.3)


def boxed(image, box):
    """A segmenter that takes all of a box."""
    mask = np.zeros((image.height, image.width), np.uint8)
    left, top, right, bottom = (round(v * s) for v, s in zip(box, (image.width, image.height) * 2))
    mask[top:bottom, left:right] = 255
    return Image.fromarray(mask)


def finder(*found):
    return Finder(detect=lambda *_: [*found], segment=boxed)


def test_of_several_places_it_is_the_surest_and_a_little_wider():
    mask = np.asarray(thing_mask(Image.new("RGB", (40, 80)), "a toy", finder(LESS, SURE)))
    assert mask.shape == (80, 40)
    assert (mask[16:64, 8:32] == 255).all() and mask.sum() == 255 * 48 * 24  # 5 % wider on each side
    assert wider(SURE, 0.5).box == (0.0, 0.0, 1.0, 1.0)
    with pytest.raises(DataError, match="nothing in the picture was found that is 'a toy'"):
        thing_mask(Image.new("RGB", (40, 80)), "a toy", finder())


def test_holes_are_filled_and_specks_are_gone():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    mask[18:20, 18:20] = False
    mask[0, 0:10] = True  # 10 of 400: less than a twentieth
    mask[35:40, 0:8] = True  # 40 of 400: a part of it
    found = tidied(mask)
    assert found[10:30, 10:30].all() and not found[0].any() and found[35:40, 0:8].all()
    assert not tidied(np.zeros((4, 4), bool)).any()


def test_only_what_is_missing_is_made(folder):
    before = (folder / "mask_a0.png").read_bytes()
    (folder / "mask_b0.png").unlink()
    asked = []

    def detect(_, phrase):
        asked.append(phrase)
        return [SURE]

    made = make_masks(load_subjects(folder, masks=False), Finder(detect=detect, segment=boxed))
    assert made == ["b0.png"] and asked == ["blue disk"]
    assert (folder / "mask_a0.png").read_bytes() == before
    assert load_subjects(folder)[1].photos[0].mask is not None
    for name in ("mask_a0.png", "mask_c1.png"):
        (folder / name).unlink()
    with pytest.raises(
        DataError, match=r"2 masks could not be made, of a0\.png, c1\.png: draw .*mask_a0\.png"
    ):
        make_masks(load_subjects(folder, masks=False), finder())


def test_what_cuts_nothing_out_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.png of 'a' has no mask: draw one"):
        check_mask_finders(None, None, lost="a.png of 'a'")
    with pytest.raises(ConfigError, match="a box is no mask"):
        check_mask_finders(str(tmp_path), None, lost="a.png")


def test_prior_pictures_are_painted_until_the_thing_is_in_them(folder, tmp_path):
    things, seeds = load_subjects(folder), []

    def paint(words, seed):
        assert words.startswith("a photo of a ") and words.endswith("highly detailed")
        seeds.append(seed)
        return Image.new("RGB", (16, 16), (seed % 256, 0, 0))

    def find(picture, phrase):
        if seeds[-1] % 10 < 2:
            raise DataError(f"no {phrase}")
        return thing_mask(picture, phrase, finder(SURE))

    out = write_prior(tmp_path / "prior", things, paint, count=2, find=find)
    assert seeds == [ten + each for ten in range(0, 60, 10) for each in range(3)]
    prior = load_prior(out, things)
    assert [each.phrase for each in prior] == ["red disk", "blue disk", "green disk"]
    assert all(len(each.photos) == 2 and each.photos[0].mask for each in prior)
    assert (out / mask_name("2_0001.png")).is_file()

    def never(*_):
        raise DataError("nothing")

    with pytest.raises(DataError, match="in 10 pictures of a 'red disk' none was found"):
        write_prior(tmp_path / "none", things, paint, count=1, find=never)
    assert not (tmp_path / "none").exists()
