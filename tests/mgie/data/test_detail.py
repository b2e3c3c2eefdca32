"""A change of a small copy, brought to a large photo."""

import numpy as np
import pytest
from PIL import Image

from mgie.data.detail import STRIP, with_detail


def large(width=320, height=2 * STRIP + 30, seed=0) -> Image.Image:
    """Smooth colours with fine detail that a small copy does not have."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(40, 216, (6, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    fine = rng.normal(0, 9, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + fine, 0, 255).astype(np.uint8))


def small(photo: Image.Image, factor: int = 5) -> Image.Image:
    return photo.resize((photo.width // factor, photo.height // factor), Image.Resampling.BICUBIC)


def away(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_nothing_changed_is_the_photo_itself():
    photo = large()
    assert away(with_detail(photo, small(photo), small(photo)), photo) < 0.5  # rounding, and EPSILON's share


@pytest.mark.parametrize("change", ["grey", "dark", "swap"])
def test_colours_change_and_detail_stays(change):
    photo = large()
    values = np.asarray(photo, float)
    wanted = {
        "grey": values.mean(-1, keepdims=True) + 0 * values,
        "dark": 0.5 * values,
        "swap": values[..., ::-1],
    }
    edited = Image.fromarray(wanted[change].round().astype(np.uint8))
    ours = with_detail(photo, small(photo), small(edited))
    enlarged = small(edited).resize(photo.size, Image.Resampling.BICUBIC)
    assert away(ours, edited) < away(enlarged, edited) / 2.5


def test_what_is_new_comes_without_the_photo_s_detail():
    photo = large()
    after = small(photo)
    after.paste((10, 200, 30), (10, 20, 50, 60))
    ours = with_detail(photo, small(photo), after)
    inside = ours.crop((100, 150, 200, 250))
    assert away(inside, Image.new("RGB", inside.size, (10, 200, 30))) < 2  # of the noise's 7
    corner = (0, 400, 320, ours.height)
    assert away(ours.crop(corner), photo.crop(corner)) < 0.5


def test_strips_have_no_seams():
    photo = large()
    after = Image.eval(small(photo), lambda value: 255 - value)
    whole = np.asarray(with_detail(photo, small(photo), after), int) + np.asarray(photo, int)
    rows = np.abs(np.diff(whole.mean((1, 2))))
    assert rows[STRIP - 1] < 1 and rows[2 * STRIP - 1] < 1
