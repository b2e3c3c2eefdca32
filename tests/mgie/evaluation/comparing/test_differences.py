"""What is said of several systems follows from their items, and from nothing else."""

import math
from dataclasses import replace

import pytest
from report_data import item, write_published_run, write_run

from mgie.evaluation.comparing.differences import compare
from mgie.evaluation.figures import FIGURES
from mgie.evaluation.finished import pair_up, read_reports
from mgie.evaluation.suites import METRICS, MORE


@pytest.fixture
def compared(tmp_path):
    """Takes, of each system, the numbers of the items that it gets right; gives the metrics' facts."""

    def write(*rights, count=24, changes=None):
        folders = []
        for place, right in enumerate(rights):
            items = [item(number, right=number in right) for number in range(count)]
            items = [replace(each, **(changes or {}).get((place, each.key), {})) for each in items]
            folders.append(write_run(tmp_path / "ABC"[place], items))
        runs = read_reports(folders)
        return compare(runs, pair_up(runs), seed=0, draws=500)

    return write


def metrics(facts, view=""):
    return facts["views"][view]["metrics"]


def test_values_differences_and_wins(compared):
    facts = compared(range(18), range(6, 12))
    right = metrics(facts)["right"]
    assert right["values"]["A"]["value"] == 0.75 and right["values"]["B"]["value"] == 0.25
    (difference,), (won,) = right["differences"], right["wins"]
    assert difference["value"] == 0.5 and 0 < difference["low"] < 0.5 < difference["high"] < 1
    assert difference["p"] == difference["p_holm"] < 0.05 and difference["detectable"] > 0.1
    assert (won["won"], won["tied"], won["lost"], won["value"]) == (12, 12, 0, 0.75)
    assert right["best"] == "A" and right["level"] == [] and facts["warnings"] == []
    ratio = metrics(facts)["l1_ratio"]
    far = [0.1 + number / 100 for number in range(24)]
    assert ratio["values"]["A"]["value"] == pytest.approx(sum(far[18:]) / sum(far), abs=1e-12)
    assert ratio["best"] == "A" and ratio["wins"][0]["won"] == 12  # lower is better
    assert list(metrics(facts)) == ["right", "l1_ratio", "said_exactly", "l1"]


def test_a_system_and_itself(compared):
    facts = compared(range(5), range(5))
    for metric in metrics(facts).values():
        (difference,) = metric["differences"]
        assert (difference["value"], difference["low"], difference["high"], difference["p"]) == (0, 0, 0, 1)
        assert metric["wins"][0]["value"] == 0.5 and metric["level"] == ["A", "B"]
        assert metric["best"] is None


def test_nobody_is_best_whom_another_one_cannot_be_told_from(compared):
    """All who are level are named, by whatever of them the value is a little larger."""
    right = metrics(compared(range(17), range(1, 19), range(3)))["right"]
    assert right["values"]["B"]["value"] > right["values"]["A"]["value"]
    assert right["best"] is None and right["level"] == ["A", "B"]


def test_several_pairs_are_held_to_more(compared):
    right = metrics(compared(range(18), range(6, 12), range(5, 12)))["right"]
    assert [(each["first"], each["second"]) for each in right["differences"]] == [
        ("A", "B"),
        ("A", "C"),
        ("B", "C"),
    ]
    assert all(each["p_holm"] >= each["p"] for each in right["differences"])
    assert right["differences"][0]["p_holm"] > right["differences"][0]["p"]


def test_the_order_of_items_and_reports_plays_no_part(tmp_path):
    items = [item(number, right=number % 3 == 0) for number in range(30)]
    better = [item(number, right=number % 3 > 0) for number in range(30)]
    for name, each in (("A", items), ("B", better), ("C", items[::-1]), ("D", better[::-1])):
        write_run(tmp_path / name, each)

    def told(first, second):
        runs = read_reports([tmp_path / first, tmp_path / second])
        return [metric["differences"][0] for metric in metrics(compare(runs, pair_up(runs), seed=1)).values()]

    def numbers(rows):
        return [
            {name: value for name, value in row.items() if name not in ("first", "second")} for row in rows
        ]

    assert numbers(told("A", "B")) == numbers(told("C", "D"))
    for one, other in zip(told("A", "B"), told("B", "A")):
        assert one["value"] == -other["value"] and one["low"] == pytest.approx(-other["high"], abs=1e-12)
        assert one["p"] == other["p"]


@pytest.mark.parametrize(("bad", "why"), [(math.inf, "infinite"), (math.nan, "missing"), (None, "missing")])
def test_an_item_without_a_number_is_left_out_for_all_and_told(compared, bad, why):
    scores = {"l1": 0.2, "copy_l1": 0.4} | ({} if bad is None else {"psnr": bad})
    whole = {"l1": 0.2, "copy_l1": 0.4, "psnr": 20.0}
    changes = {(place, f"k{number:02d}"): {"scores": whole} for place in (0, 1) for number in range(24)}
    changes[1, "k03"] = {"scores": scores}
    changes[0, "k03"] = {"scores": whole | {"psnr": 99.0}}
    psnr = metrics(compared(range(24), range(24), changes=changes))["psnr"]
    assert psnr["n"] == 23 and psnr["left_out"] == {"B": {why: 1}}
    assert psnr["values"]["A"]["value"] == psnr["values"]["B"]["value"] == 20
    assert psnr["differences"][0]["high"] == 0 and psnr["wins"][0]["tied"] == 23


def test_a_metric_that_one_system_lacks_altogether(compared):
    changes = {(0, f"k{n:02d}"): {"scores": {"l1": 0.0, "copy_l1": 0.1, "ssim": 1.0}} for n in range(24)}
    changes |= {(1, f"k{n:02d}"): {"scores": {"l1": 0.0, "copy_l1": 0.1}} for n in range(24)}
    ssim = metrics(compared(range(3), range(3), changes=changes))["ssim"]
    assert ssim["n"] == 0 and ssim["left_out"] == {"B": {"missing": 24}} and ssim["best"] is None


def test_a_metric_that_nobody_knows_has_no_best(compared):
    scores = {"l1": 0.0, "copy_l1": 0.1, "taste": 3.0}
    changes = {(place, f"k{n:02d}"): {"scores": scores} for place in (0, 1) for n in range(24)}
    taste = metrics(compared(range(3), range(3), changes=changes))["taste"]
    assert taste["better"] is None and taste["wins"] == [] and taste["best"] is None and taste["differences"]


def test_few_clusters_and_unpaired_items_are_warned_of(compared, tmp_path):
    few = compared(range(3), range(3), count=6)
    assert few["warnings"] == ["intervals of fewer than 20 clusters mean little"]
    write_run(tmp_path / "more", [item(number) for number in range(9)])
    runs = read_reports([tmp_path / "A", tmp_path / "more"])
    first = compare(runs, pair_up(runs), seed=0, draws=50)["warnings"][0]
    assert first == "3 items of more have no partner and were left out, such as k06, k07, k08"


def test_turns_of_a_session_are_drawn_together(tmp_path):
    """Each session's turns are alike, so that sessions, not turns, tell how much is known."""
    for name, place in (("a", 0), ("b", 1)):
        rows = [
            {"key": f"{session}-{turn}", "view": "single", "row": "outputs", "cluster": cluster,
             "scores": {"l1": 0.1 * (session % 3) * place}}
            for session in range(24) for turn in range(4)
            for cluster in [f"s{session}"]
        ]  # fmt: skip
        write_published_run(tmp_path / name, rows)
        alone = [row | {"cluster": ""} for row in rows]
        write_published_run(tmp_path / f"{name}-alone", alone)
    found = {}
    for kind in ("", "-alone"):
        runs = read_reports([tmp_path / f"a{kind}", tmp_path / f"b{kind}"])
        facts = compare(runs, pair_up(runs), seed=0, draws=2000)
        found[kind] = metrics(facts, "single")["l1"]["differences"][0]
        assert facts["views"]["single"]["clusters"] == (96 if kind else 24)
        assert any("belong together" in warning for warning in facts["warnings"]) == bool(kind)
    assert found[""]["detectable"] == pytest.approx(2 * found["-alone"]["detectable"], rel=0.1)


def test_which_way_is_better_is_said_alike():
    nets = {name: MORE["lpips"] for name in FIGURES if name.startswith("lpips_")}
    for name, metric in (METRICS | MORE | nets).items():
        assert name == "lpips" or FIGURES[name].better == metric.better
