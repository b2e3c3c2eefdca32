"""Layouts measured: by finders that see what was painted, and AP by hand."""

import pytest
from controlled_data import FINDERS, painted

from mgie.evaluation.controlled.benchmark import ControlledBenchmark
from mgie.evaluation.controlled.coco_mig import summary
from mgie.evaluation.controlled.layout_data import layout_task
from mgie.evaluation.controlled.layout_scores import ColoursInPlaces, Positions, average_precision

LEFT, RIGHT, TOP = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.25)


def test_coco_mig_s_means_are_over_instances():
    """Of two pictures, one of two instances and one of one: as coco_mig.summary has it."""
    measure = ColoursInPlaces(finders=FINDERS)
    tasks = [
        layout_task("a", "x", [("a red ball", LEFT), ("a green cup", RIGHT)]),  # that cup is blue
        layout_task("b", "x", [("a red ball", RIGHT)]),
    ]
    found = [
        measure.measure(tasks[0], painted(("ball", LEFT), ("cup", RIGHT))).facts(),
        measure.measure(tasks[1], painted(("ball", RIGHT))).facts(),
    ]
    assert found[0]["told"]["instances"] == [[True, True, pytest.approx(1, abs=0.05)], [True, False, 0]]
    told = measure.summary(tasks, found)
    assert told["instance_success_rate"] == pytest.approx(2 / 3)
    assert told["image_success_rate"] == 1 / 2 == told["strict_image_success_rate"]
    assert told["mean_iou"] == pytest.approx(2 / 3, abs=0.03)
    from mgie.evaluation.controlled.coco_mig import InstanceScore

    scores = [
        [InstanceScore(in_place=a, in_colour=b, overlap=c) for a, b, c in each["told"]["instances"]]
        for each in found
    ]
    assert {name: told[name] for name in ("instance_success_rate", "image_success_rate", "mean_iou")} == {
        name: pytest.approx(value) for name, value in summary(scores).items() if "/" not in name
    }


def test_one_thing_serves_two_instances_unless_it_is_strict():
    task = layout_task("a", "x", [("a red ball", LEFT), ("a red ball", LEFT)])
    scores = ColoursInPlaces(finders=FINDERS).measure(task, painted(("ball", LEFT))).scores
    assert scores["instance_success_rate"] == 1 and scores["strict_instance_success_rate"] == 1 / 2


def test_places_without_colours():
    measure = Positions(finders=FINDERS)
    task = layout_task("a", "x", [("a ball", LEFT), ("the cup", RIGHT), ("a dog", TOP)])
    found = measure.measure(task, painted(("ball", LEFT), ("cup", (0.5, 0.0, 1.0, 0.75))))
    assert found.scores["in_place"] == pytest.approx(2 / 3) and found.scores["image_success_rate"] == 0
    assert found.scores["mean_iou"] == pytest.approx((1 + 0.75 + 0) / 3, abs=0.02)
    told = measure.summary([task], [found.facts()])
    assert told["ap50"] == pytest.approx(2 / 3) and told["ap75"] == pytest.approx(1 / 3, abs=0.34)
    assert set(told) == {"in_place", "image_success_rate", "mean_iou", "ap", "ap50", "ap75"}


def test_average_precision_by_hand():
    """Two boxes; the surest detection is wrong, the next two are right: precision 2/3 at every recall."""
    wanted = [[("cat", LEFT)], [("cat", RIGHT)]]
    found = [{"cat": [[0.9, *RIGHT], [0.8, *LEFT]]}, {"cat": [[0.7, *RIGHT]]}]
    assert average_precision(wanted, found) == {
        "ap": pytest.approx(2 / 3), "ap50": pytest.approx(2 / 3), "ap75": pytest.approx(2 / 3)
    }  # fmt: skip
    # One box of two: recall ends at a half, 51 of 101 places.
    assert average_precision(wanted, [found[0], {}])["ap50"] == pytest.approx(51 / 101 / 2)
    # A second detection of the same box is wrong.
    twice = [{"cat": [[0.9, *LEFT], [0.8, *LEFT]]}, {"cat": [[0.7, *RIGHT]]}]
    assert average_precision(wanted, twice)["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision(wanted, [{}, {}])["ap"] == 0
    # At higher overlaps a box that is off counts no more: 0.8 is right at seven of ten.
    near = [{"cat": [[0.9, 0.0, 0.0, 0.5, 0.8]]}]
    assert average_precision([[("cat", LEFT)]], near) == {
        "ap": pytest.approx(0.7), "ap50": 1, "ap75": 1
    }  # fmt: skip


def test_classes_weigh_alike():
    wanted = [[("cat", LEFT), ("cat", RIGHT), ("dog", TOP)]]
    found = [{"cat": [[0.9, *LEFT], [0.9, *RIGHT]], "dog": []}]
    assert average_precision(wanted, found)["ap"] == 1 / 2


def test_names_are_unique():
    from mgie.errors import DataError

    task = layout_task("a", "x", [("a ball", LEFT)])
    with pytest.raises(DataError, match="hold 2 tasks under 1 names"):
        ControlledBenchmark("coco_position", [task, task], Positions(finders=FINDERS))
