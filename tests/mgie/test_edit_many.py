"""`mgie edit` with many photos, instructions and seeds; what is kept; what is said meanwhile."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
from PIL import ExifTags, Image

from mgie.cli import main
from mgie.edit import edit
from mgie.errors import ConfigError
from mgie.weights.release import write_release


@pytest.fixture(scope="module")
def model(release, tmp_path_factory):
    """An untrained release that says little."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return write_release(replace(release, settings=release.settings | {"max_new_tokens": 4}), folder)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Camera"
    for seed, (name, size) in enumerate({"a.png": (32, 32), "b.jpg": (48, 24)}.items()):
        values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name, exif=exif)
    return folder


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_batch_goes_on_after_one_bad_photo(capsys, tmp_path, photos, model):
    (photos / "broken.png").write_text("no picture")
    out = tmp_path / "out"
    words = ["edit", photos, "make it dark", "--also", "invert it", "--seed", "[1, 2]", "--model", model]
    rest = ["--out", out, "--sheet", "--captions", "--json"]
    assert main([*map(str, [*words, *rest])]) == 2
    said = capsys.readouterr()
    facts = json.loads(said.out.splitlines()[-1])
    names = {f"{stem}-{number}-seed{seed}" for stem in "ab" for number in (1, 2) for seed in (1, 2)}
    pictures = {f"{name}{'.png' if name[0] == 'a' else '.jpg'}" for name in names}
    assert {*os.listdir(out)} == pictures | {f"{name}.txt" for name in names} | {"sheet.png"}
    assert {os.path.basename(row["out"]) for row in facts["edits"]} == pictures
    for row in facts["edits"]:
        stem = row["out"].rpartition(".")[0]
        with open(f"{stem}.txt") as text, Image.open(row["out"]) as picture:
            assert text.read() == row["said"] + "\n"
            assert picture.getexif()[ExifTags.Base.Model] == "Camera"
            with Image.open(row["photo"]) as photo:
                assert (picture.size, picture.format) == (photo.size, photo.format)
    # The photo is told of once for each of its four edits, and at the end.
    assert {row["photo"] for row in facts["failed"]} == {str(photos / "broken.png")}
    last = said.err.splitlines()[-1]
    assert last.startswith("mgie: 4 of 12 edits failed: ") and "broken.png cannot be decoded" in last
    first = next(line for line in said.err.splitlines() if line.startswith("mgie: "))
    assert first == (
        f"mgie: 2 photos by 2 instructions: 8 pictures into {out}, 4 cannot be edited; "
        f"{model} on cpu in float32"
    )
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.height > 8 * 200


def test_another_seed_or_photo_changes_nothing_of_a_result(tmp_path, photos, model):
    """What is said is computed once, and each picture is what it is alone."""
    several = edit([photos], "make it dark", model=model, out=tmp_path / "all", seed=[1, 2])
    alone = edit([photos / "b.jpg"], "make it dark", model=model, out=tmp_path / "alone.jpg", seed=2)
    assert (pixels(tmp_path / "all" / "b-seed2.jpg") == pixels(tmp_path / "alone.jpg")).all()
    assert (pixels(tmp_path / "all" / "b-seed1.jpg") != pixels(tmp_path / "alone.jpg")).any()
    assert several["edits"][3]["said"] == alone["edits"][0]["said"] and several["failed"] == []


def test_a_chain_goes_on_from_what_it_has_made(tmp_path, photos, model):
    told = {"model": model, "seed": 3}
    facts = edit(
        [photos / "a.png"], "make it dark", also=["invert it"], chain=True, out=tmp_path / "o", **told
    )
    assert [row["instruction"] for row in facts["edits"]] == ["make it dark", "invert it"]
    edit([tmp_path / "o" / "a-1.png"], "invert it", out=tmp_path / "second.png", **told)
    assert (pixels(tmp_path / "o" / "a-2.png") == pixels(tmp_path / "second.png")).all()


def test_a_list_of_edits(capsys, tmp_path, photos, model):
    (photos / "list.csv").write_text(
        "photo,instruction,out,seed\na.png,make it dark,dark.png,4\nb.jpg,invert it,,\n"
    )
    words = ["edit", "--list", photos / "list.csv", "--model", model, "--out", tmp_path / "o", "--seed", "2"]
    assert main([*map(str, words), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["instruction"], row["seed"]) for row in facts["edits"]] == [
        ("make it dark", 4),
        ("invert it", 2),
    ]
    assert sorted(os.listdir(tmp_path / "o")) == ["b.jpg", "dark.png"]
    assert main([*map(str, words), "--chain"]) == 2
    assert "--list names photos and instructions itself" in capsys.readouterr().err


def test_nothing_is_overwritten_silently(capsys, tmp_path, photos, model):
    out = tmp_path / "out.png"
    words = [*map(str, ["edit", photos / "a.png", "make it dark", "--model", model, "--out", out])]
    shutil.copy(photos / "a.png", out)
    before = out.read_bytes()
    assert main(words) == 2
    assert "out.png is there already" in capsys.readouterr().err and out.read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    assert "(1 replaced)" in capsys.readouterr().err
    made = out.read_bytes()
    assert main([*words, "--quiet"]) == 0  # what was made here makes way, and nothing is said
    assert capsys.readouterr() == ("", "") and out.read_bytes() == made


def test_detail_of_a_large_photo(tmp_path, model):
    values = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    for name, detail in (("plain.png", False), ("fine.png", True)):
        edit([tmp_path / "photo.png"], "make it dark", model=model, out=tmp_path / name, detail=detail)
    plain, fine = (pixels(tmp_path / name).astype(float) for name in ("plain.png", "fine.png"))
    assert (
        plain.shape == fine.shape
        and np.abs(np.diff(fine, axis=0)).mean() > np.abs(np.diff(plain, axis=0)).mean()
    )


def test_what_does_not_go_together(tmp_path, photos, model):
    told = {"model": model, "out": tmp_path / "o"}
    with pytest.raises(ConfigError, match="--chain is for several instructions"):
        edit([photos], "make it dark", chain=True, **told)
    with pytest.raises(ConfigError, match="seed is an empty list"):
        edit([photos], "make it dark", seed=[], **told)
    with pytest.raises(ConfigError, match=r"seed\[1\]=-1"):
        edit([photos], "make it dark", seed=[1, -1], **told)
    with pytest.raises(ConfigError, match="name each seed"):
        edit([photos], "make it dark", seed=[1, 1], **told)
    assert not (tmp_path / "o").exists()


VERBS = ("edit", "push", "web", "train")


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["models", "--folder", "."], *([verb, "--help"] for verb in VERBS)]
)
def test_who_only_asks_does_not_wait_for_torch(words):
    """Seconds of imports; benchmarks/imports.py counts them."""
    code = (
        f"import sys\nfrom mgie.cli import main\ntry:\n    main({words})\nexcept SystemExit:\n    pass\n"
        "sys.exit(' '.join({'torch', 'transformers', 'diffusers', 'numpy', 'PIL'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "" and done.stdout


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mgie {version('mgie')}\n"
