"""A blind page tells nothing, and its key tells all."""

import json
from collections import Counter

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from report_data import HOSTILE, Page, item, picture, write_run

from mgie.errors import DataError
from mgie.evaluation.finished import read_reports
from mgie.evaluation.people.ab import KEY, write_ab

COUNT = 40


@pytest.fixture
def runs(tmp_path):
    """Two systems that differ in every output; the names of files and systems tell whose is whose."""
    for name, right in (("SystemOne", True), ("SystemTwo", False)):
        items = [item(number, right=right, instruction=f"edit {number} {HOSTILE}") for number in range(COUNT)]
        write_run(tmp_path / name, items, model=f"_ckpt/{name}")
        for path in (tmp_path / name / "pictures").iterdir():  # a picture may say who made it
            with Image.open(path) as opened:
                told = PngInfo()
                told.add_text("Software", name)
                opened.copy().save(path, pnginfo=told, icc_profile=name.encode())
    return read_reports([tmp_path / "SystemOne", tmp_path / "SystemTwo"])


@pytest.fixture
def made(runs, tmp_path):
    """Takes count and seed; gives folder, key, page and study."""

    def write(count=COUNT, seed=1, name="page", **others):
        (tmp_path / name).mkdir()
        key = write_ab(tmp_path / name, runs, list(runs[0].items), count=count, seed=seed, **others)
        page = Page((tmp_path / name / "index.html").read_text())
        study = json.loads(page.words["script"][0])
        return tmp_path / name, json.loads(json.dumps(key)), page, study

    return write


def test_no_byte_of_the_page_names_a_system(made):
    folder, key, page, study = made()
    assert key["systems"] == ["SystemOne", "SystemTwo"] and not (folder / KEY).exists()
    for path in folder.rglob("*"):
        assert "System" not in path.name
        if path.is_file():
            assert b"System" not in path.read_bytes()
        if path.suffix == ".png":
            with Image.open(path) as shown:
                assert not shown.info  # an ICC profile, say, would be compressed
    assert set(study["tasks"][0]) == {"task", "instruction", "source", "left", "right"}
    assert study["tasks"][0]["instruction"].endswith(HOSTILE)
    assert len(page.all("script")) == 2 and page.words["h1"] == ["Which is better?"]
    used = [attributes for attributes in page.all("script") if attributes]
    assert used == [{"type": "application/json", "id": "study"}]


def opened(folder, task, side):
    with Image.open(folder / task[side]) as found:
        return found.convert("RGB").getpixel((0, 0))


def test_the_key_says_whose_each_picture_is(made):
    folder, key, _, study = made()
    assert key["page"] == study["page"] and [task["task"] for task in study["tasks"]] == list(key["tasks"])
    for task in study["tasks"]:
        told = key["tasks"][task["task"]]
        number = int(told["key"][1][1:])
        assert opened(folder, task, "source") == picture(number).getpixel((0, 0))
        assert task["instruction"].startswith(f"edit {number} ")
        for side in ("left", "right"):
            whose = told[side]
            shown = {0: number + 100, 1: number, "copy": number}.get(
                whose if not isinstance(whose, list) else None
            )
            shown = int(whose[1][1:]) if shown is None else shown
            assert opened(folder, task, side) == picture(shown).getpixel((0, 0))


def test_some_come_twice_with_sides_swapped_and_some_show_who_looks(made):
    _, key, _, study = made()
    tasks = list(key["tasks"].values())
    assert Counter(task["sort"] for task in tasks) == {"pair": COUNT, "repeat": 4, "attention": 2}
    sides = {tuple(task["key"]): task for task in tasks if task["sort"] == "pair"}
    assert len(sides) == COUNT
    for task in tasks:
        first = sides[tuple(task["key"])]
        if task["sort"] == "repeat":
            assert (task["left"], task["right"]) == (first["right"], first["left"])
            assert tasks.index(task) - tasks.index(first) > 5
        if task["sort"] == "attention":
            assert "copy" in (task["left"], task["right"])
    left = sum(task["left"] for task in sides.values())
    assert 8 <= left <= 32  # sides are drawn: of 40 coins outside of it once in 20 000
    names = [task[side] for task in study["tasks"] for side in ("source", "left", "right")]
    assert len(set(names)) == len(names)


def test_the_seed_decides(made):
    one, again, other = made(name="1"), made(name="2"), made(name="3", seed=2)
    assert (one[0] / "index.html").read_bytes() == (again[0] / "index.html").read_bytes() and one[1] == again[
        1
    ]
    assert other[1]["page"] != one[1]["page"] and list(other[1]["tasks"]) != list(one[1]["tasks"])


def test_other_pictures_are_another_page(made, runs):
    first = made(name="1")[1]
    path = runs[0].picture(("", "k03"), "output")
    picture(250).save(path)
    assert made(name="2")[1]["page"] != first["page"]


def test_fewer_can_be_asked_about(made):
    assert sum(task["sort"] == "pair" for task in made(count=7)[1]["tasks"].values()) == 7


def test_what_is_equal_is_not_asked_about(tmp_path):
    for name, wrong in (("A", ()), ("B", (3, 5))):
        write_run(tmp_path / name, [item(number, right=number not in wrong) for number in range(8)])
    runs = read_reports([tmp_path / "A", tmp_path / "B"])
    (tmp_path / "page").mkdir()
    key = write_ab(tmp_path / "page", runs, list(runs[0].items), count=9, seed=0)
    assert key["equal"] == 6
    assert {task["key"][1] for task in key["tasks"].values() if task["sort"] == "pair"} == {"k03", "k05"}
    with pytest.raises(DataError, match="equal outputs of all 8 items"):
        write_ab(tmp_path / "none", [runs[0], runs[0]], list(runs[0].items), count=9, seed=0)


def test_outputs_of_another_size_give_nobody_away(tmp_path):
    for name, side in (("A", 8), ("B", 16)):
        items = [item(number, output=picture(number + side, side)) for number in range(4)]
        write_run(tmp_path / name, items)
    runs = read_reports([tmp_path / "A", tmp_path / "B"])
    (tmp_path / "page").mkdir()
    write_ab(tmp_path / "page", runs, list(runs[0].items), count=9, seed=0)
    for path in (tmp_path / "page" / "pictures").iterdir():
        with Image.open(path) as shown:
            assert shown.size == (8, 8)


def test_mgie_s_questions_show_the_target(made, runs, tmp_path):
    folder, key, page, study = made(questions="mgie")
    assert key["questions"] == "mgie" and list(study["questions"]) == ["follows", "target", "overall"]
    assert len(page.all("figure")) == 4 and len(page.all("fieldset")) == 3
    for task in study["tasks"]:
        number = int(key["tasks"][task["task"]]["key"][1][1:])
        assert opened(folder, task, "target") == picture(number + 100).getpixel((0, 0))
    assert made(name="other")[1]["page"] != key["page"]
    for run in runs:
        for told in run.items.values():
            told["pictures"].pop("target")  # type: ignore[union-attr]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="keep no pictures of source and target of common items"):
        write_ab(tmp_path / "none", runs, list(runs[0].items), count=3, seed=1, questions="mgie")
