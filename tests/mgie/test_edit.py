"""`mgie edit`: what a careless user can do wrong, and one real edit with the smallest release."""

import json
import os
import shutil

import numpy
import pytest
from PIL import Image, ImageCms

from mgie.cli import main
from mgie.config import RECIPES
from mgie.data.photo_files import write_whole
from mgie.errors import DataError


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.effect_noise((60, 41), 90).convert("RGB").save(path)
    return path


def refused(capsys, *words) -> str:
    """The one sentence about a request that cannot be granted."""
    assert main(["edit", *map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("mgie: ") and said.err.count("\n") == 1, said.err
    return said.err


def test_not_a_picture(capsys, tmp_path):
    (tmp_path / "notes.jpg").write_text("these are notes")
    words = [tmp_path / "notes.jpg", "make it dark", "--model", tmp_path, "--out", tmp_path / "out.png"]
    assert "notes.jpg" in refused(capsys, *words)
    assert os.listdir(tmp_path) == ["notes.jpg"]


def test_no_such_photo_and_forgotten_words(capsys, tmp_path, photo):
    rest = ["--model", tmp_path, "--out", tmp_path / "out.png"]
    assert "there is no photo" in refused(capsys, tmp_path / "gone.jpg", "make it dark", *rest)
    assert "missing: instruction" in refused(capsys, photo, *rest)
    assert "the last word is a photo" in refused(capsys, photo, photo, *rest)


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_empty_instruction(capsys, tmp_path, photo, instruction):
    rest = ["--model", tmp_path, "--out", tmp_path / "out.png"]
    assert "the instruction is empty" in refused(capsys, photo, instruction, *rest)


def test_a_folder_for_one_photo(capsys, tmp_path, photo):
    (tmp_path / "results").mkdir()
    for out in (tmp_path / "results", f"{tmp_path}/new/"):
        assert "needs a file" in refused(capsys, photo, "make it dark", "--model", tmp_path, "--out", out)


def test_a_file_for_several_photos(capsys, tmp_path, photo):
    shutil.copy(photo, tmp_path / "other.jpg")
    words = [photo, tmp_path / "other.jpg", "make it dark", "--model", tmp_path, "--out", photo]
    assert "need a folder" in refused(capsys, *words)
    words[-1] = tmp_path / "out.png"
    assert "out.png, a picture's name, but 2 photos need a folder" in refused(capsys, *words)


def test_two_photos_of_one_name(capsys, tmp_path, photo):
    (tmp_path / "more").mkdir()
    shutil.copy(photo, tmp_path / "more" / "photo.jpg")
    words = [
        photo,
        tmp_path / "more" / "photo.jpg",
        "make it dark",
        "--model",
        tmp_path,
        "--out",
        tmp_path / "o",
    ]
    assert "would both become" in refused(capsys, *words)
    assert not (tmp_path / "o").exists()


def test_names_that_cannot_be_written(capsys, tmp_path, photo):
    words = [photo, "make it dark", "--model", tmp_path, "--out"]
    assert "ends in .png" in refused(capsys, *words, tmp_path / "out.txt")
    assert "there is no folder" in refused(capsys, *words, tmp_path / "none" / "out.png")
    assert "overwrite the photo" in refused(capsys, *words, photo)


def test_no_permission(capsys, tmp_path, photo):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    out = folder / "out.png"
    if os.access(folder, os.W_OK):  # nothing stops a superuser, but a file system of the kernel's own
        out = "/sys/out.png"
    assert "permission" in refused(capsys, photo, "make it dark", "--model", tmp_path, "--out", out)


def test_no_release(capsys, tmp_path, photo):
    words = [photo, "make it dark", "--out", tmp_path / "out.png", "--model"]
    assert "there is no release folder" in refused(capsys, *words, tmp_path / "none")
    assert "is no release" in refused(capsys, *words, tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert str(tmp_path) in refused(capsys, *words, tmp_path)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--steps", "1001"), "steps=1001: expected at most 1000"),
        (("--size", "1"), "size=1: expected at least 16 pixels"),
        (("--size", "16000"), "choose a smaller size"),
        (("--device", "meta"), "computes nothing"),
        (("--guidance", ".nan"), "guidance=nan: expected a number, at least 0 and at most 100"),
    ],
)
def test_what_cannot_be_is_told_before_any_weight_is_read(capsys, tmp_path, photo, words, sentence):
    base = RECIPES / "tiny_base" / "sd"
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "MGIEPipeline", "_encoder": {"kind": "llava"}, "_denoiser": {"kind": "unet"}}'
    )
    for part in ("unet", "vae", "scheduler"):
        shutil.copytree(base / part, tmp_path / part, ignore=shutil.ignore_patterns("*.safetensors"))
    rest = ["make it dark", "--model", tmp_path, "--out", tmp_path / "out.png"]
    assert sentence in refused(capsys, photo, *rest, *words)


def test_masks_that_cannot_be(capsys, tmp_path, photo):
    """All of it before the release is looked at: there is none."""
    Image.new("L", (60, 60), 255).save(tmp_path / "square.png")
    (tmp_path / "notes.png").write_text("these are notes")
    rest = [photo, "make it dark", "--model", tmp_path, "--out", tmp_path / "out.png"]
    for words, sentence in {
        ("--mask", tmp_path / "none.png"): "there is no mask",
        ("--mask", tmp_path / "notes.png"): "notes.png cannot be decoded",
        ("--mask", tmp_path / "square.png"): f"the mask has 60 x 60 pixels and {photo} 60 x 41",
        ("--mask", "0,0,30,20"): "the mask's box is 0, 0, 30, 20: expected x0, y0, x1, y1 as parts",
        ("--mask", "0.5,0,0.2,1"): "with x0 < x1",
        ("--mask", "10%,10%,50%,50%"): "there is no mask 10%,10%,50%,50%: expected a picture's file",
        ("--mask", "phrase:"): "names nothing: expected words",
        ("--mask", "phrase:the dog"): "no model that reads words: give --detector FOLDER",
        ("--mask", "phrase:the dog", "--detector", tmp_path): "is no model folder (it has no config.json)",
        ("--mask", "auto", "--detector", tmp_path): "find what a mask names in words, but there are none",
        ("--segmenter", tmp_path): "find what a mask names in words, but there are none",
        ("--mask", "phrase:the dog", "--out", tmp_path / "out.jpg"): "give --detector FOLDER",
        ("--mask", "auto", "--out", tmp_path / "out.jpg"): "a JPEG changes every pixel a little",
        ("--preserve", "soft"): "but there is none: give a mask",
        ("--region.feather", "3"): "but there is none: give a mask",
        ("--mask", "0,0,1,1", "--preserve", "exactly"): "preserve",
        ("--mask", "0,0,1,1", "--region.feather", "-3"): "region.feather=-3.0: expected a number, at least 0",
        ("--mask", "0,0,1,1", "--region.fether", "3"): "there is no --region.fether: expected one of those",
        ("--mask", "0,0,1,1", "--region.grow", "many"): "--region.grow is many: expected a number;",
        ("--mask", "0,0,1,1", "--region.features", "maybe"): "--region.features is maybe: expected true or",
        ("--mask", "0,0,1,1", "--region", "3"): "--region is 3: expected its options one by one",
        ("--mask", "0,0,1,1", "--out", tmp_path / "out.jpg"): "a JPEG changes every pixel a little",
    }.items():
        assert sentence in refused(capsys, *rest, *words), words
    soft = ("--mask", "0,0,1,1", "--preserve", "soft", "--out", tmp_path / "out.jpg")
    assert "is no release" in refused(capsys, *rest, *soft)


@pytest.mark.parametrize("token", ["</s>", "[IMG0]", "<image>"])
def test_an_instruction_with_what_is_no_word(capsys, tmp_path, photo, token):
    rest = ["--model", tmp_path, "--out", tmp_path / "out.png"]
    assert f"{token}, which is no word" in refused(capsys, photo, f"make {token} dark", *rest)


def test_a_picture_too_long_for_its_format(capsys, tmp_path):
    Image.new("RGB", (16384, 200)).save(tmp_path / "long.png")
    words = [tmp_path / "long.png", "make it dark", "--model", tmp_path, "--out", tmp_path / "out.webp"]
    assert "WEBP holds at most 16383 pixels a side" in refused(capsys, *words)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(Image.new("RGB", (8, 8)), tmp_path / "out.png")
    assert os.listdir(tmp_path) == []


def test_pictures_are_written_in_the_named_format(tmp_path):
    for name, kind in (("a.png", "PNG"), ("b.JPG", "JPEG"), ("c.webp", "WEBP")):
        write_whole(Image.new("RGB", (8, 8), "red"), tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind
    assert len(os.listdir(tmp_path)) == 3


@pytest.fixture(scope="module")
def release(tmp_path_factory, toy_data):
    """A release of the recipe `tiny` after one step."""
    from mgie.config import load_run
    from mgie.extract import extract
    from mgie.train import train

    folder = tmp_path_factory.mktemp("edit")
    fixed = {
        "data.path": toy_data, "data.workers": 0, "out": folder / "runs", "train.samples": 4,
        "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1, "preview.every": 0,
    }  # fmt: skip
    facts = train(load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()]))
    extract(facts["run_dir"], out=folder / "tiny")
    return folder / "tiny"


def test_one_photo(capsys, tmp_path, photo, release):
    words = ["edit", str(photo), "make it dark", "--model", str(release), "--seed", "3"]
    assert main([*words, "--out", str(tmp_path / "out.png"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = facts["edits"]
    assert row["out"] == str(tmp_path / "out.png") and isinstance(row["said"], str)
    with Image.open(tmp_path / "out.png") as picture:
        first = numpy.asarray(picture)
    # The same seed gives the same picture, another seed another one.
    assert main([*words, "--out", str(tmp_path / "again.png")]) == 0
    shown = capsys.readouterr().out
    assert f"{photo} -> {tmp_path / 'again.png'}" in shown
    assert f"said: {row['said'] or '(nothing)'}" in shown
    assert ("trust it less" in shown) == row["forced"]
    with Image.open(tmp_path / "again.png") as picture:
        assert (numpy.asarray(picture) == first).all()
    assert main([*words[:-1], "4", "--out", str(tmp_path / "other.png")]) == 0
    with Image.open(tmp_path / "other.png") as picture:
        assert (numpy.asarray(picture) != first).any()


@pytest.mark.parametrize("kind", ["box", "file"])
def test_an_edit_inside_a_mask(capsys, tmp_path, photo, release, kind):
    mask = Image.new("L", (60, 41))
    mask.paste(255, (30, 0, 60, 41))
    mask.save(tmp_path / "mask.png")
    given = "0.5,0,1,1" if kind == "box" else str(tmp_path / "mask.png")
    words = ["edit", str(photo), "make it dark", "--model", str(release), "--mask", given, "--json"]
    with Image.open(photo) as picture:
        before = numpy.asarray(picture.convert("RGB"))
    for name in ("out.png", "out.webp"):
        assert main([*words, "--region.feather", "0", "--out", str(tmp_path / name)]) == 0
        (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["edits"]
        with Image.open(tmp_path / name) as picture:
            after = numpy.asarray(picture.convert("RGB"))
        assert (after[:, :30] == before[:, :30]).all() and (after[:, 30:] != before[:, 30:]).any()
        assert row["outside_change"] == 0
    assert main([*words[:-1], "--preserve", "none", "--out", str(tmp_path / "all.png")]) == 0
    assert "outside the mask, values changed by up to" in capsys.readouterr().out


def test_what_colours_mean_is_kept_with_them(capsys, tmp_path, release):
    """A photo's profile goes with its bytes, unless they were not red, green and blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = {}
    for name, told in (("rgb", profile), ("ink", profile[:16] + b"CMYK" + profile[20:]), ("none", None)):
        photo = tmp_path / f"{name}.jpg"
        Image.effect_noise((40, 40), 90).convert("RGB").save(photo, icc_profile=told)
        words = ["edit", photo, "make it dark", "--model", release, "--mask", "0,0,1,0.5"]
        assert main([*map(str, words), "--out", str(tmp_path / f"{name}.png")]) == 0
        with Image.open(tmp_path / f"{name}.png") as picture:
            found[name] = picture.info.get("icc_profile")
    assert found == {"rgb": profile, "ink": None, "none": None}
    capsys.readouterr()


def test_an_edit_where_the_words_matter(capsys, tmp_path, photo, release):
    words = ["edit", str(photo), "make it dark", "--model", str(release), "--mask", "auto"]
    assert main([*words, "--out", str(tmp_path / "out.png"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["edits"]
    assert 0 < row["inside"] <= 1 and row["outside_change"] == 0
    assert main([*words, "--out", str(tmp_path / "again.png")]) == 0
    assert f"(the mask is {row['inside']:.1%} of the photo)" in capsys.readouterr().out


def test_an_edit_of_what_a_phrase_names(capsys, tmp_path, photo, release, monkeypatch):
    """All photos' masks are found before the release's weights are read."""
    shutil.copy(photo, tmp_path / "other.jpg")
    opened = []

    def finder(*folders, device):
        opened.append((*folders, device.type))

        def find(image, words, *, name):
            if name.endswith("other.jpg") and words == "the dog":
                raise DataError(f"nothing in {name} was found that is {words!r}: expected at least one.")
            mask = Image.new("L", image.size)
            mask.paste(255, (0, 0, 30 if name.endswith("other.jpg") else 15, image.height))
            return mask

        return find

    monkeypatch.setattr("mgie.asked.open_finder", finder)
    monkeypatch.setattr("mgie.masks.check_finding", lambda *_: None)
    words = [photo, tmp_path / "other.jpg", "make it dark", "--model", release, "--out", tmp_path / "o"]
    rest = ["--detector", "D", "--segmenter", "S", "--device", "cpu"]
    assert main(["edit", *map(str, words), "--mask", "phrase:the dog", *rest]) == 2  # the other one is edited
    said = capsys.readouterr()
    assert "1 of 2 edits failed" in said.err and "other.jpg was found that is 'the dog'" in said.err
    assert opened == [("D", "S", "cpu")] and os.listdir(tmp_path / "o") == ["photo.png"]
    assert main(["edit", *map(str, words), "--mask", "phrase:the cat", *rest, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["edits"]
    assert [row["inside"] for row in rows] == [0.25, 0.5] and {row["outside_change"] for row in rows} == {0}


def test_the_device_and_the_type(capsys, tmp_path, photo, release):
    words = [photo, "make it dark", "--model", release, "--out", tmp_path / "out.png"]
    assert "'cuda:99' cannot be used" in refused(capsys, *words, "--device", "cuda:99")
    assert "dtype" in refused(capsys, *words, "--dtype", "int8")
    assert not (tmp_path / "out.png").exists()
    pixels = {}
    for dtype in ("float32", "bfloat16"):
        assert main(["edit", *map(str, words), "--dtype", dtype, "--device", "cpu"]) == 0
        with Image.open(tmp_path / "out.png") as picture:
            pixels[dtype] = numpy.asarray(picture, int)
    # In steps of 8 bits; measured: 2.4.
    assert 0 < abs(pixels["float32"] - pixels["bfloat16"]).mean() < 8


def test_several_photos(tmp_path, photo, release):
    shutil.copy(photo, tmp_path / "other.jpg")
    words = ["edit", str(photo), str(tmp_path / "other.jpg"), "make it dark", "--model", str(release)]
    assert main([*words, "--out", str(tmp_path / "results")]) == 0
    assert sorted(os.listdir(tmp_path / "results")) == ["other.jpg", "photo.jpg"]
