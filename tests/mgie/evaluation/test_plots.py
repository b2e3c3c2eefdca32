"""A plot is a well-formed SVG whose points lie where their numbers say."""

import xml.etree.ElementTree as ElementTree

import pytest
from report_data import HOSTILE

from mgie.evaluation.plots import Curve, Point, curves, plot, smoothed, thinned, ticks

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*series):
    return ElementTree.fromstring(plot(series, title="t", x="cost", y="quality"))


def test_points_lie_where_their_numbers_say():
    points = [
        Point(name=name, x=x, y=y) for name, x, y in (("a", 1.0, 0.1), ("e", 3.0, 0.5), ("i", 5.0, 0.9))
    ]
    (circle,) = drawn(points).iter(f"{SVG}circle")
    (way,) = drawn(points).iter(f"{SVG}polyline")
    places = [tuple(map(float, place.split(","))) for place in way.attrib["points"].split()]
    assert places[0] == (float(circle.attrib["cx"]), float(circle.attrib["cy"]))
    assert places[0][0] < places[1][0] < places[2][0] and places[0][1] > places[1][1] > places[2][1]
    assert places[1] == pytest.approx(
        ((places[0][0] + places[2][0]) / 2, (places[0][1] + places[2][1]) / 2), abs=0.11
    )
    assert all(0 < x < 640 and 0 < y < 400 for x, y in places)


def test_names_are_words_and_told_to_who_cannot_see():
    found = drawn([Point(name=HOSTILE.replace("\u2028", ""), x=1.0, y=1.0, low=0.5, high=1.5)])
    assert not list(found.iter(f"{SVG}script")) and found.attrib["role"] == "img"
    assert next(found.iter(f"{SVG}desc")).text.startswith("<script>alert(1)</script>")


def test_one_point_and_equal_points_are_drawn():
    assert len(list(drawn([Point(name="a", x=0.0, y=0.0)]).iter(f"{SVG}circle"))) == 1
    assert drawn([Point(name="a", x=2.0, y=2.0)], [Point(name="b", x=2.0, y=2.0)]) is not None


@pytest.mark.parametrize(
    ("value", "first", "last"), [(0.0, 0, 1), (0.04, 0, 0.04), (3.0, 0, 3), (-2.0, -2, 0)]
)
def test_an_axis_of_equal_values_goes_from_nothing_to_there(value, first, last):
    words = [
        each.text
        for each in drawn([Point(name="", x=1.0, y=value, low=value, high=value)]).iter(f"{SVG}text")
    ]
    numbers = [float(each) for each in words[words.index("1") + 1 :] if each not in (None, "cost", "quality")]
    assert (numbers[0], numbers[-1]) == (first, last)


@pytest.mark.parametrize("span", [(0.0, 1.0), (-0.003, 0.0007), (12.0, 13e3), (1e-4, 3e-4)])
def test_ticks_are_few_and_inside(span):
    found = ticks(*span)
    assert 2 <= len(found) <= 7 and span[0] <= found[0] and found[-1] <= span[1]


def test_a_curve_goes_through_means_and_each_system_has_its_look():
    slope = [(float(x), 2.0 * x) for x in range(1000)]
    assert thinned(slope, most=500) == [(x + 0.5, 2 * x + 1.0) for x in range(0, 1000, 2)]
    few = [(0.0, 1.0), (1.0, 5.0)]
    assert thinned(few) == smoothed(few) == few
    assert [y for _, y in smoothed(slope)] == pytest.approx([y for _, y in slope])
    noisy = [(float(x), float(x % 2)) for x in range(100)]
    assert {round(y, 1) for _, y in smoothed(noisy)[5:-5]} <= {0.5, 0.6, 0.4, 0.7, 0.3}
    series = [Curve(number=number, points=slope) for number in (0, 1, 9)]
    ways = list(ElementTree.fromstring(curves(series, title="t", x="x", y="y")).iter(f"{SVG}polyline"))
    assert len(ways) == 6 and len({(way.get("stroke"), way.get("stroke-dasharray")) for way in ways[3:]}) == 3
    one = curves([Curve(number=0, points=[(1.0, 2.0)])], title="t", x="x", y="y")
    assert len(list(ElementTree.fromstring(one).iter(f"{SVG}circle"))) == 1
