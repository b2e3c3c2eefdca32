"""Canvases of cut-outs: nothing outside, nothing half transparent, and every draw as the paper has it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mgie.errors import ConfigError
from mgie.personalization.segmix import (
    CutOut,
    Place,
    Placement,
    SegMixConfig,
    compose,
    cut_out,
    largest_factor,
    mixed_caption,
    sample_placement,
)
from mgie.personalization.subjects import Photo


def disk(width, height, colour, *, soft=False):
    image = Image.new("RGB", (width, height), colour)
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((0, 0, width - 1, height - 1), fill=255)
    return CutOut(image=image, mask=mask.reduce(2).resize(mask.size) if soft else mask)


def placements(sizes, count=2000, **how):
    rng = np.random.default_rng(0)
    return [sample_placement(rng, sizes, **how) for _ in range(count)]


@pytest.mark.parametrize("style", ["mudi", "flux", "corners"])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_nothing_ever_lies_outside(style, count):
    rng = np.random.default_rng(count)
    for _ in range(200):
        canvas = int(rng.integers(32, 700))
        sizes = [(int(width), int(height)) for width, height in rng.integers(1, 300, (count, 2))]
        drawn = sample_placement(rng, sizes, canvas=canvas, config=SegMixConfig(style=style))
        assert sorted(drawn.order) == list(range(count))
        for place in drawn.places:
            assert place.width >= 1 and place.x >= 0 and place.x + place.width <= canvas
            assert place.height >= 1 and place.y >= 0 and place.y + place.height <= canvas


def test_sizes_margins_and_coins_are_the_papers():
    sizes = [(100, 150), (80, 60)]
    found = placements(sizes, canvas=1024)
    most = largest_factor(sizes[0], 1024)
    grown = [each.places[0].width / 100 for each in found]
    assert 0.75 * most - 0.02 < min(grown) < 0.76 * most and 0.99 * most < max(grown) <= most
    left = [each.places[0].x < each.places[1].x for each in found]
    on_top = [each.order[-1] == 0 for each in found]
    for coin in (left, on_top, [a == b for a, b in zip(left, on_top)]):
        assert 0.46 < np.mean(coin) < 0.54  # 3.5 deviations
    margins = [min(place.x for place in each.places) for each in found]
    assert min(margins) >= 1 and max(margins) <= 256 and max(margins) > 250
    ends = [1024 - max(place.x + place.width for place in each.places) for each in found]
    assert min(ends) >= 1 and max(ends) <= 256


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_any_number_lies_side_by_side_in_any_order(count):
    found = placements([(50, 50)] * count, 400, canvas=512)
    orders = {tuple(np.argsort([place.x for place in each.places])) for each in found}
    assert len(orders) == min({2: 2, 3: 6, 4: 24, 5: 120}[count], len(orders)) and len(orders) > count - 1
    assert all(place.width <= 512 / count - 16 for each in found for place in each.places)


def test_a_canvas_of_half_the_size_is_the_same_one_scaled():
    for seed in range(20):
        large = sample_placement(np.random.default_rng(seed), [(200, 300), (240, 100)], canvas=1024)
        small = sample_placement(np.random.default_rng(seed), [(100, 150), (120, 50)], canvas=512)
        assert large.order == small.order
        for one, other in zip(large.places, small.places):
            for name in ("x", "y", "width", "height"):
                assert abs(getattr(one, name) / 2 - getattr(other, name)) <= 1.5


def test_scales_and_one_height():
    drawn = sample_placement(
        np.random.default_rng(3),
        [(40, 40), (40, 40)],
        canvas=256,
        scales=[1.0, 0.5],
        level=True,
        in_order=True,
    )
    most = int(40 * largest_factor((40, 40), 256))
    assert [each.width for each in drawn.places] == [most, most // 2]
    assert drawn.places[0].y == drawn.places[1].y and drawn.places[0].x < drawn.places[1].x


@pytest.mark.parametrize("soft", [False, True])
def test_no_pixel_is_a_mixture_and_who_is_on_top_is_whole(soft):
    cuts = [disk(90, 90, "red", soft=soft), disk(90, 90, "blue", soft=soft)]
    places = (Place(x=10, y=10, width=60, height=60), Place(x=40, y=20, width=60, height=60))
    for order in ((0, 1), (1, 0)):
        composed = compose(cuts, Placement(places=places, order=order), 128)
        pixels = np.asarray(composed.image)
        assert {tuple(colour) for colour in pixels.reshape(-1, 3)} == {
            (255, 255, 255),
            (255, 0, 0),
            (0, 0, 255),
        }
        assert np.array_equal(composed.union, (pixels != 255).any(axis=-1))
        colour = [(255, 0, 0), (0, 0, 255)][order[1]]
        assert (pixels[composed.masks[order[1]]] == colour).all()


def test_black_and_mirrored():
    half = Image.new("L", (40, 40))
    ImageDraw.Draw(half).rectangle((0, 0, 19, 39), fill=255)
    cut = CutOut(image=Image.new("RGB", (40, 40), "red"), mask=half)
    place = Place(x=0, y=0, width=40, height=40)
    plain = compose([cut], Placement(places=(place,), order=(0,)), 64)
    turned = Place(x=0, y=0, width=40, height=40, mirrored=True)
    mirrored = compose([cut], Placement(places=(turned,), order=(0,), black=True), 64)
    assert np.array_equal(plain.masks[0][:40, :40], mirrored.masks[0][:40, :40][:, ::-1])
    assert (np.asarray(mirrored.image)[~mirrored.union] == 0).all()


def test_the_later_style_mirrors_and_darkens_as_often_as_published():
    found = placements([(50, 50), (50, 50)], canvas=512, config=SegMixConfig.flux())
    assert 0.21 < np.mean([each.black for each in found]) < 0.29
    turned = np.array([[place.mirrored for place in each.places] for each in found])
    assert (abs(turned.mean(axis=0) - 0.5) < 0.04).all() and abs(
        np.mean(turned[:, 0] == turned[:, 1]) - 0.5
    ) < 0.04


def test_what_is_said_of_a_canvas():
    places = (Place(x=70, y=0, width=20, height=20), Place(x=0, y=0, width=20, height=20))
    drawn = Placement(places=places, order=(0, 1))
    phrases = ["hta corgi", "olis cat"]
    assert mixed_caption(phrases, drawn) == "a photo of a hta corgi and a olis cat, simple background."
    assert "a small hta corgi and a small olis cat, white" in mixed_caption(phrases, drawn, "flux")
    assert "hta corgi on the right and a olis cat on the left" in mixed_caption(phrases, drawn, "corners")


def test_the_box_of_a_thing_holds_all_of_it():
    mask = Image.new("L", (30, 20))
    ImageDraw.Draw(mask).rectangle((5, 4, 24, 15), fill=255)
    photo = Photo(
        name="x.png", image=Image.new("RGB", (30, 20)), mask_path=Path("m.png"), mask=mask, captions=("x",)
    )
    assert cut_out(photo).image.size == (20, 12) and cut_out(photo, legacy=True).image.size == (19, 11)
    with pytest.raises(ConfigError, match=r"x\.png has no mask"):
        cut_out(Photo(name="x.png", image=photo.image, mask_path=Path("m.png"), mask=None, captions=("x",)))
