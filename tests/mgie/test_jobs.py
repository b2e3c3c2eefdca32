"""Which file becomes which: folders, patterns, lists, names of results."""

import json

import pytest
from PIL import Image

from mgie.data.photo_files import write_whole
from mgie.errors import ConfigError, DataError
from mgie.jobs import Job, check_targets, find_photos, plan, read_list


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "c.bmp", ".hidden.png", "more/d.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "notes.txt").write_text("notes")
    return folder


def test_folders_and_patterns_stand_for_photos(photos):
    found, several = find_photos([photos])
    assert [path.name for path in found] == ["a.JPG", "b.png", "c.bmp"] and several
    found, several = find_photos([f"{photos}/*.png", f"{photos}/**/d.png"])
    assert [path.name for path in found] == ["b.png", "d.png"] and several
    assert find_photos([photos / "b.png"]) == ([photos / "b.png"], False)
    # What is there is meant, whatever its name; what is not is told of when it is opened.
    Image.new("RGB", (8, 8)).save(photos / "x[1].png")
    assert find_photos([photos / "x[1].png", photos / "none.png"])[1] is False
    with pytest.raises(DataError, match="no photo is called"):
        find_photos([f"{photos}/*.webp"])
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="holds no photo"):
        find_photos([photos / "empty"])


def names(jobs: list[Job]) -> list[list[str]]:
    return [[target.name for target in job.targets] for job in jobs]


def test_names_of_results(photos, tmp_path):
    both, out = [photos / "a.JPG", photos / "c.bmp"], tmp_path / "out"
    assert names(plan(both, ["x"], [0], out, folder=True)) == [["a.JPG"], ["c.png"]]
    assert names(plan(both[:1], ["x", "y"], [0], out, folder=False)) == [["a-1.JPG"], ["a-2.JPG"]]
    jobs = plan(both[:1], ["x", "y"], [3, 5], out, folder=False)
    assert names(jobs) == [["a-1-seed3.JPG"], ["a-1-seed5.JPG"], ["a-2-seed3.JPG"], ["a-2-seed5.JPG"]]
    assert [(job.words, job.seed) for job in jobs[1:3]] == [(("x",), 5), (("y",), 3)]
    (job,) = plan(both[:1], ["x", "y"], [0], out, folder=False, chain=True)
    assert job.words == ("x", "y") and [target.name for target in job.targets] == ["a-1.JPG", "a-2.JPG"]
    # What must not lose a bit, and what was painted from nothing.
    assert names(plan(both, ["x"], [0], out, folder=True, lossless=True)) == [["a.png"], ["c.png"]]
    assert names(plan([], ["x"], [1, 2], out, folder=False)) == [["picture-seed1.png"], ["picture-seed2.png"]]
    with pytest.raises(ConfigError, match=r"o.png, a picture's name, but several results need a folder"):
        plan(both[:1], ["x", "y"], [0], tmp_path / "o.png", folder=False)


def test_a_list_says_everything(tmp_path):
    (tmp_path / "list.csv").write_text(
        'photo,instruction,out,seed\na.png,"make it dark, please",x/1.png,7\n'
        "b.jpg,invert it,,\nb.jpg,blur it,,\n"
    )
    jobs = read_list(tmp_path / "list.csv", tmp_path / "out", seed=3)
    assert [(job.photo, job.words[0], job.seed, str(job.targets[0])) for job in jobs] == [
        (tmp_path / "a.png", "make it dark, please", 7, f"{tmp_path}/out/x/1.png"),
        (tmp_path / "b.jpg", "invert it", 3, f"{tmp_path}/out/b-1.jpg"),
        (tmp_path / "b.jpg", "blur it", 3, f"{tmp_path}/out/b-2.jpg"),
    ]
    rows = [
        {"photo": "a.png", "instruction": "make it dark"},
        {"photo": "b.png", "instruction": "x", "seed": 2},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    jobs = read_list(tmp_path / "list.jsonl", tmp_path / "out", seed=3)
    assert [(job.seed, job.targets[0].name) for job in jobs] == [(3, "a.png"), (2, "b.png")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "lists nothing"),
        ("photo,words\na.png,x\n", "line 2 of .* has 'words': expected photo, instruction, out, seed"),
        ("photo,instruction\na.png,\n", "line 2 of .* has no instruction"),
        ("photo,instruction\na.png,x,y\n", "has 'too many cells'"),
        ("photo,instruction,out\na.png,x,../b.png\n", r"out=\.\./b\.png: expected a name inside the folder"),
        ("photo,instruction,out\na.png,x,b.txt\n", "ends in .png"),
        ("photo,instruction,seed\na.png,x,many\n", "line 2 of .*many"),
        ("photo,instruction,seed\na.png,x,-1\n", "seed=-1: expected a whole number"),
        ("photo,instruction\na.png,make </s> it\n", "line 2 of .* no word"),
    ],
)
def test_lists_that_cannot_be(tmp_path, text, sentence):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_list(tmp_path / "list.csv", tmp_path / "out", seed=0)


def test_lines_that_are_no_rows(tmp_path):
    for text in ("[1]", "nonsense"):
        (tmp_path / "list.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"line 1 of .* is no row"):
            read_list(tmp_path / "list.jsonl", tmp_path / "out", seed=0)
    with pytest.raises(DataError, match="cannot be read"):
        read_list(tmp_path / "none.csv", tmp_path / "out", seed=0)


def test_only_what_was_made_here_makes_way(photos, tmp_path):
    def jobs(*targets):
        return [Job(photo=photos / "b.png", words=("x",), seed=0, targets=tuple(targets))]

    own, foreign = tmp_path / "own.png", tmp_path / "foreign.png"
    write_whole(Image.new("RGB", (8, 8)), own)
    Image.new("RGB", (8, 8)).save(foreign)
    assert check_targets(jobs(own, tmp_path / "new.png")) == 1
    with pytest.raises(ConfigError, match=r"foreign.png is there already.*add --overwrite"):
        check_targets(jobs(foreign))
    assert check_targets(jobs(foreign), overwrite=True) == 1
    # A text beside a picture goes with it.
    (tmp_path / "own.txt").write_text("said")
    (tmp_path / "new.txt").write_text("mine")
    assert check_targets(jobs(own), [tmp_path / "own.txt"]) == 1
    with pytest.raises(ConfigError, match=r"new.txt is there already"):
        check_targets(jobs(tmp_path / "new.png"), [tmp_path / "new.txt"])
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="would overwrite the photo"):
            check_targets(jobs(photos / "b.png"), overwrite=overwrite)
    with pytest.raises(ConfigError, match=r"would become .* twice"):
        check_targets(jobs(own) * 2)
