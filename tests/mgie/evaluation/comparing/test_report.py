"""A comparison is written whole: figures, tables, plots, pictures, a page."""

import json

import pytest
from report_data import HOSTILE, Page, item, write_published_run, write_run

from mgie.errors import DataError
from mgie.evaluation.comparing.report import plots, with_pictures, write_comparison
from mgie.evaluation.finished import pair_up, read_reports


def written(folder, *folders):
    runs = read_reports(folders)
    folder.mkdir()
    return write_comparison(folder, runs, pair_up(runs), seed=0), Page((folder / "report.html").read_text())


@pytest.fixture
def three(tmp_path):
    found = []
    for name, share, guidance in (("A", 3, 3.0), ("B", 2, 5.0), ("C <b>", 1, 7.5)):
        items = [
            item(number, right=number % 3 < share, instruction=f"{HOSTILE} {number}") for number in range(24)
        ]
        settings = {"guidance_scale": guidance, "image_guidance_scale": 1.5}
        found.append(write_run(tmp_path / name, items, settings=settings, seconds_per_edit=share))
    return found


def test_all_forms_are_there(three, tmp_path):
    facts, page = written(tmp_path / "out", *three)
    page.check(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == facts
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"compare.json", "report.md", "report.html", "pictures", "cost.svg", "guidance.svg"}
    assert len(page.all("script")) == 1 and len(page.all("article")) == 24 and len(page.all("svg")) == 2
    assert len(page.all("img")) == 24 * 5
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 24 * 5  # what all share is there once
    page_text = (tmp_path / "out" / "report.md").read_text()
    assert "judged right" in page_text and "A - B" in page_text and "<b>" not in page_text
    assert "100% (100% to 100%) best" in page_text and " level" not in page_text


def test_the_same_reports_give_the_same_bytes(three, tmp_path):
    for name in ("one", "two"):
        written(tmp_path / name, *three)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_a_picture_that_is_gone_is_told(three, tmp_path):
    next((three[1] / "pictures").glob("*_output.png")).unlink()
    with pytest.raises(DataError, match=r"_output\.png is gone"):
        written(tmp_path / "out", *three)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n and no more", b"<html>"])
def test_a_damaged_picture_is_told(three, tmp_path, data):
    next((three[1] / "pictures").glob("*_output.png")).write_bytes(data)
    with pytest.raises(DataError, match=r"_output\.png"):
        written(tmp_path / "out", *three)


def test_doing_nothing_and_the_target_stand_beside_systems(tmp_path):
    """Over all items of the first report, so not where some of them were left out."""
    known = {"copy": {"l1": 0.25, "right": 0.0}, "oracle": {"l1": 0.0, "right": 1.0}}
    for name in "ab":
        write_run(tmp_path / name, [item(number) for number in range(4)], baselines=known)
    write_run(tmp_path / "few", [item(number) for number in range(3)], baselines=known)
    facts, page = written(tmp_path / "out", tmp_path / "a", tmp_path / "b")
    assert facts["views"][""]["metrics"]["l1"]["controls"] == {"copy": 0.25, "oracle": 0.0}
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| copy | oracle |" in " ".join(text.split()) and "| 0% | 100% |" in " ".join(text.split())
    assert "oracle: the target itself" in text and page.words["th"][4:6] == ["copy", "oracle"]
    written(tmp_path / "less", tmp_path / "a", tmp_path / "few")
    assert "oracle" not in (tmp_path / "less" / "report.md").read_text()


def test_of_a_published_protocol_each_view_has_its_own(tmp_path):
    known = {"copy": {"single": {"l1": 0.25}, "multi": {"l1": 0.5}}, "outputs": {}}
    items = [{"key": "1", "view": view, "scores": {"l1": 0.1}} for view in ("single", "multi")]
    for name in "ab":
        path = write_published_run(tmp_path / name, items) / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": known}))
    facts, _ = written(tmp_path / "out", tmp_path / "a", tmp_path / "b")
    found = {view: each["metrics"]["l1"]["controls"] for view, each in facts["views"].items()}
    assert found == {"single": {"copy": 0.25}, "multi": {"copy": 0.5}}


def test_reports_of_one_system_by_several_seeds_have_a_mean_and_a_deviation(tmp_path):
    def making(seed, weights="w"):
        return {"making": {"weights": weights, "seed": seed, "steps": 2}}

    for seed, share in ((1, 4), (2, 2), (3, 3)):
        items = [item(number, right=number < share) for number in range(4)]
        write_run(tmp_path / str(seed), items, **making(seed))
    write_run(tmp_path / "other", [item(number) for number in range(4)], **making(4, "v"))
    folders = [tmp_path / str(seed) for seed in (1, 2, 3)]
    facts, _ = written(tmp_path / "out", *folders)
    assert facts["seeds"] == [1, 2, 3]
    found = facts["views"][""]["metrics"]["right"]["over_seeds"]
    assert found == {"mean": 0.75, "deviation": pytest.approx(0.25)}
    text = (tmp_path / "out" / "report.md").read_text()
    assert "over 3 seeds" in text and "75% ± 25%" in text
    for name, others in (("with", [tmp_path / "other"]), ("twice", [folders[0]])):
        facts, _ = written(tmp_path / name, *folders, *others)
        assert facts["seeds"] == [] and "seeds" not in (tmp_path / name / "report.md").read_text()


def test_pictures_are_those_of_their_report(three, tmp_path):
    runs = read_reports(three)
    (tmp_path / "out").mkdir()
    copied = with_pictures(tmp_path / "out", runs, list(runs[0].items))
    for run, copy in zip(runs, copied):
        for key in run.items:
            for role in ("source", "output", "target"):
                assert copy.picture(key, role).read_bytes() == run.picture(key, role).read_bytes()


def curve(tmp_path, views):
    """Two published reports of InstructPix2Pix's curve."""
    folders = []
    for name, more in (("A", 0.0), ("B", 0.1)):
        rows = []
        for place, view in enumerate(views):
            scores = {
                "sim_0": 0.2,
                "sim_1": 0.3,
                "sim_direction": 0.3 - place / 10,
                "sim_image": more + place / 9,
            }
            about = {"view": view, "row": "outputs", "scores": scores}
            rows += [about | {"key": str(key), "cluster": str(key)} for key in range(3)]
        folders.append(write_published_run(tmp_path / name, rows, suite="ip2p", protocol="ip2p/1#0"))
    return folders


def test_published_reports_have_numbers_without_pictures_and_their_curve(tmp_path):
    facts, page = written(tmp_path / "out", *curve(tmp_path, ["s1.0", "s1.2", "s2.2"]))
    page.check(tmp_path / "out")
    assert list(facts["views"]) == ["s1.0", "s1.2", "s2.2"] and not page.all("img")
    (line, other) = page.all("polyline")
    assert len(line["points"].split()) == len(other["points"].split()) == 3
    assert "view" in [select["name"] for select in page.all("select")]


def test_no_plot_where_there_is_nothing_to_plot(tmp_path):
    folders = [write_run(tmp_path / name, [item(0), item(1, right=False)]) for name in "AB"]
    runs = read_reports(folders)
    (tmp_path / "out").mkdir()
    facts = write_comparison(tmp_path / "out", runs, pair_up(runs), seed=0)
    assert plots(facts, runs) == {}
