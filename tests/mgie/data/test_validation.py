from dataclasses import replace

import pytest

from mgie.data.validation import Gate, Rejected, check
from mgie.errors import DataError
from mgie.types import Region


def reason(pair) -> str:
    gate = Gate()
    assert list(gate([pair])) == []
    (row,) = gate.rejected
    assert row.key == pair.key and "\n" not in row.detail and row.detail.endswith(".")
    return row.reason


def test_sound_pairs_pass_with_the_size_of_their_target(make_pair, make_picture):
    gate = Gate()
    pairs = [
        make_pair(0),
        make_pair(1, source=None),
        make_pair(2, target=make_picture(24, 24), mask=make_picture()),
    ]
    assert list(gate(pairs)) == [(pairs[0], (12, 12)), (pairs[1], (12, 12)), (pairs[2], (24, 24))]
    assert gate.passed == 3 and not gate.rejected and not gate.counts


def test_bad_pairs_are_set_aside_with_a_reason(make_pair, make_picture):
    wrong = {
        "bad picture": [
            {"source": b""},
            {"target": b"x" * 99},
            {"mask": b"x"},
            {"source": make_picture()[:-40]},
        ],
        "empty instruction": [{"instruction": ""}, {"instruction": " \n"}],
        "reserved token": [
            {"instruction": "add </s>"},
            {"expressive": "so [IMG3]"},
            {"instruction": "<im_patch>"},
        ],
        "mask of another size": [{"mask": make_picture(6, 12)}],
        "different shapes": [{"target": make_picture(12, 24)}],
        "bad weight": [{"weight": -1.0}, {"weight": float("nan")}, {"weight": float("inf")}],
        "bad turn": [{"turn": 2**40}, {"turn": -1}],
        "bad text": [{"instruction": "a\udc80"}, {"meta": {"a": "\ud800"}}],
        "empty key": [{"key": ""}],
        "bad key": [{"key": key} for key in ("../x", "/x", "a/../b", "a\nb", "..", "a\\b", "\x7f")],
    }
    for expected, changes in wrong.items():
        for change in changes:
            assert reason(make_pair(0, **change)) == expected, change


def test_what_was_set_aside_keeps_no_pictures(make_pair):
    gate = Gate()
    assert not list(gate([make_pair(0, target=b"x" * 99)]))
    (row,) = gate.rejected
    assert row.__traceback__ is None and row.__cause__ is None and row.__context__ is None


BOX = (0.1, 0.2, 0.5, 0.9)


def test_regions_and_pictures_pass(make_pair, make_picture):
    regions = (Region(phrase="a cat", box=BOX), Region(phrase="a dog", mask=make_picture()))
    pairs = [
        make_pair(0, regions=regions, subjects=("toy",)),
        make_pair(1, instruction="<image> for the circle in <source>", pictures=(make_picture(5, 7),)),
        make_pair(2, instruction="<image><image>, side by side", pictures=(make_picture(),) * 2),
    ]
    gate = Gate()
    assert [pair for pair, _ in gate(pairs)] == pairs and not gate.rejected


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ({"phrase": " "}, "region 1 of pair-0 has no phrase"),
        ({"box": None}, "neither a box nor a mask"),
        ({"box": (0.5, 0.2, 0.1, 0.9)}, "expected left, top, right and bottom in this order"),
        ({"box": (0.1, 0.2, 0.1, 0.9)}, "in this order, from 0 to 1"),
        ({"box": (-0.1, 0.2, 0.5, 0.9)}, "from 0 to 1"),
        ({"box": (0.1, float("nan"), 0.5, 0.9)}, "expected numbers"),
        ({"box": (3.0, 0.0, 9.0, 11.0)}, "looks like pixels: divide by the width 12 and the height 24"),
        ({"scales": (1.0, float("inf"), 1.0)}, "expected numbers"),
        ({"scales": (1.0, -1.0, 1.0)}, "no scale below 0"),
    ],
)
def test_regions_that_are_none(make_pair, make_picture, region, words):
    pair = make_pair(0, source=None, target=make_picture(12, 24))
    with pytest.raises(Rejected, match=words) as caught:
        check(replace(pair, regions=(Region(**{"phrase": "a cat", "box": BOX} | region),)))
    assert caught.value.reason == "bad region"


def test_pictures_and_regions_that_are_set_aside(make_pair, make_picture):
    one = (make_picture(),)
    wrong = {
        "other number of pictures": [
            {"instruction": "add <image>"},
            {"pictures": one},
            {"instruction": "add <image> and <image>", "pictures": one},
            {"instruction": "<source> and <source>"},
        ],
        "reserved token": [
            {"expressive": "it is <image>"},
            {"expressive": "<source>"},
            {"instruction": "add <image> </s>", "pictures": one},
            {"regions": (Region(phrase="<image>", box=BOX),)},
        ],
        "empty instruction": [{"instruction": " <image> ", "pictures": one}],
        "bad text": [{"subjects": ("\ud800",)}, {"regions": (Region(phrase="\ud800", box=BOX),)}],
        "bad picture": [
            {"instruction": "add <image>", "pictures": (b"x",)},
            {"regions": (Region(phrase="a", mask=b"x"),)},
        ],
        "mask of another size": [{"regions": (Region(phrase="a", mask=make_picture(6, 12)),)}],
    }
    for expected, changes in wrong.items():
        for change in changes:
            assert reason(make_pair(0, **change)) == expected, change


def test_rotated_pictures_have_their_upright_size(make_pair, make_picture):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    turned = make_picture(20, 10, form="JPEG", exif=exif)
    assert check(make_pair(0, source=make_picture(10, 20), target=turned)) == (10, 20)
    with pytest.raises(DataError, match="20 x 10 pixels into 10 x 20"):
        check(make_pair(0, source=make_picture(20, 10), target=turned))


def test_the_second_of_a_key_is_set_aside(make_pair):
    gate = Gate()
    assert len(list(gate([make_pair(0), make_pair(1), make_pair(0)]))) == 2
    assert gate.counts == {"duplicate key": 1}
    assert len(list(gate([make_pair(1), make_pair(2)]))) == 1  # splits share their keys


def test_what_was_left_out_by_choice_is_no_loss(make_pair):
    gate = Gate()
    rows = [
        make_pair(0),
        Rejected(key="a", reason="filter", detail="a.", by_choice=True),
        Rejected(key="b", reason="c", detail="d."),
    ]
    assert len(list(gate(rows))) == 1
    assert gate.filtered == {"filter": 1} and gate.counts == {"c": 1}


def test_threads_change_nothing(make_pair):
    pairs = [make_pair(index, instruction="x" if index % 5 else "") for index in range(23)]
    one, many = Gate(), Gate()
    assert list(one(pairs)) == list(many(pairs, workers=3))
    assert [*map(vars, one.rejected)] == [*map(vars, many.rejected)] and len(one.rejected) == 5
    assert next(Gate()(iter(pairs[1:]), workers=3))[0] == pairs[1]  # an early end leaves no thread behind
