"""Reports are read back as they were written, and only what belongs together is paired."""

import json

import pytest
from report_data import item, write_published_run, write_run

from mgie.errors import DataError
from mgie.evaluation.finished import pair_up, read_report, read_reports


@pytest.fixture
def two(tmp_path):
    """Takes the changes of the second report."""

    def write(*, numbers=range(4), facts=None, **changes):
        write_run(tmp_path / "a", [item(number) for number in range(4)])
        write_run(tmp_path / "b", [item(number, **changes) for number in numbers], **(facts or {}))
        return read_reports([tmp_path / "a", tmp_path / "b"])

    return write


def test_a_report_is_read_as_it_was_written(tmp_path):
    words = "two\u2028lines\x85 and \x1f"
    write_run(tmp_path / "a", [item(0, instruction=words), item(1, right=None, cluster="photo")])
    run = read_report(tmp_path / "a", "a")
    assert list(run.items) == [("", "k00"), ("", "k01")] and run.facts["model"] == "_ckpt/a"
    first, second = run.items.values()
    assert first["instruction"] == words and first["right"] is True and second["right"] is None
    assert second["cluster"] == "photo" and len(first["cluster"]) == 16
    assert run.copies["", "k01"] == {"l1": 0.11}
    assert run.picture(("", "k00"), "output").is_file()


def test_items_of_one_source_picture_belong_together(tmp_path):
    again = item(0)
    write_run(tmp_path / "a", [item(0), item(1, source=again.source), item(2)])
    clusters = [row["cluster"] for row in read_report(tmp_path / "a", "a").items.values()]
    assert clusters[0] == clusters[1] != clusters[2]


def test_names_are_told_apart(tmp_path):
    for place in ("x/r", "y/r", "z/s"):
        write_run(tmp_path / place, [item(0)])
    names = [run.name for run in read_reports([tmp_path / "x/r", tmp_path / "y/r", tmp_path / "z/s"])]
    assert names == [str(tmp_path / "x/r"), str(tmp_path / "y/r"), "s"]
    twice = [run.name for run in read_reports([tmp_path / "z/s"] * 2)]
    assert len(set(twice)) == 2


def test_items_without_a_partner_are_named(two):
    paired = pair_up(two(numbers=(0, 2, 7)))
    assert paired.keys == [("", "k00"), ("", "k02")]
    assert paired.unpaired == {"a": ["k01", "k03"], "b": ["k07"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"facts": {"suite": "pairs"}}, r"differ in suite \(toy and pairs\)"),
        ({"facts": {"protocol": "x/1#0"}}, "differ in protocol"),
        ({"instruction": "another"}, "differ in instruction of k00"),
        ({"scores": {"l1": 0.0, "copy_l1": 0.5}}, "differ in l1 of the untouched picture of k00"),
        ({"numbers": (8, 9)}, "no item in common"),
    ],
)
def test_what_cannot_be_compared_is_told(two, changes, says):
    with pytest.raises(DataError, match=says):
        pair_up(two(**changes))


def test_other_weights_cannot_be_compared(tmp_path):
    for name in "ab":
        write_run(tmp_path / name, [item(0)], weights={"clip": {"model.safetensors": name}})
    with pytest.raises(DataError, match="other weights of clip"):
        pair_up(read_reports([tmp_path / "a", tmp_path / "b"]))


def test_of_a_published_report_outputs_are_items(tmp_path):
    rows = [
        {"key": "1", "view": view, "row": row, "scores": {"l1": 0.25}}
        for view in ("single", "multi")
        for row in ("outputs", "copy", "oracle")
    ]
    run = read_report(write_published_run(tmp_path / "a", rows), "a")
    assert list(run.items) == [("single", "1"), ("multi", "1")]
    assert run.copies["multi", "1"] == {"l1": 0.25}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{"], "line 1"),
        (["[]"], "line 1"),
        (['{"key": "a"}'], "line 1"),
        (['{"key": "a", "scores": {"l1": "x"}}'], "line 1"),
        (['{"key": "a", "scores": {}, "pictures": {"source": "../../x"}}'], "names no file"),
        (['{"key": "a", "scores": {}}'] * 2, "a is there twice"),
        (['{"key": "a", "scores": {}, "right": "yes"}'], "line 1: right and control_right are true, false"),
        (['{"key": "a", "scores": {}, "of": {"l1": "many"}}'], "line 1: could not convert"),
        ([], "tells of no item"),
    ],
)
def test_damaged_reports_are_told(tmp_path, lines, says):
    write_run(tmp_path / "a", [item(0)])
    (tmp_path / "a" / "items.jsonl").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(DataError, match=says):
        read_report(tmp_path / "a", "a")


def test_an_evaluation_that_is_not_finished_is_told(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(DataError, match=r"is an evaluation that is not finished .*: run its command again"):
        read_report(tmp_path, "a")


def test_what_is_no_report_is_told(tmp_path):
    with pytest.raises(DataError, match=r"has no results\.json"):
        read_report(tmp_path, "a")
    (tmp_path / "results.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="no model and suite"):
        read_report(tmp_path, "a")


@pytest.mark.parametrize(
    "facts",
    [
        {"seconds_per_edit": "slow"},
        {"settings": {"guidance_scale": "high"}},
        {"settings": [1]},
        {"weights": "none"},
        {"suite": ["toy"]},
    ],
)
def test_facts_of_another_form_are_told(tmp_path, facts):
    path = write_run(tmp_path / "a", [item(0)]) / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    with pytest.raises(DataError, match=r"results\.json cannot be read .*expected the folder of a report"):
        read_report(tmp_path / "a", "a")
