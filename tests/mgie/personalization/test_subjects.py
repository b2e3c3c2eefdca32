"""A folder of subjects is read whole, and whatever is wrong in it is told by its line."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from subject_data import write_subjects

from mgie.errors import DataError
from mgie.personalization.subjects import load_prior, load_subjects


def test_photos_masks_and_captions_in_their_order(folder):
    found = load_subjects(folder)
    assert (found[0].name, found[0].phrase) == ("a", "olisa red disk")
    assert [photo.name for each in found for photo in each.photos] == [
        f"{name}{number}.png" for name in "abc" for number in range(2)
    ]
    photo = found[0].photos[0]
    assert photo.image.size == photo.mask.size == (96, 72) and photo.captions[0].endswith("noise 0")


def test_both_picture_and_mask_are_turned_upright(folder):
    for name in ("a0.png", "mask_a0.png"):
        image = Image.open(folder / name)
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(folder / name, exif=exif)
    photo = load_subjects(folder)[0].photos[0]
    assert photo.image.size == photo.mask.size == (72, 96)
    red = np.asarray(photo.image)[np.asarray(photo.mask) >= 128].mean(axis=0)
    assert red[0] > 250 and red[1] < 5


def test_without_masks_they_may_be_missing(folder):
    (folder / "mask_a0.png").unlink()
    with pytest.raises(DataError, match=r"mask_a0\.png of line 2"):
        load_subjects(folder)
    found = load_subjects(folder, masks=False)
    assert found[0].photos[0].mask is None and found[0].photos[1].mask is not None


def test_the_prior_has_the_same_ids(folder):
    subjects = load_subjects(folder)
    write_subjects(folder, "cab", file="class_metadata.jsonl")
    assert [each.name for each in load_prior(folder, subjects)] == ["a", "b", "c"]
    write_subjects(folder, "ab", file="class_metadata.jsonl")
    with pytest.raises(DataError, match="the ids a, b and the subjects a, b, c"):
        load_prior(folder, subjects)


def changed(folder, number, **changes):
    """The folder with another line; None drops a field."""
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    line = {
        key: value for key, value in (json.loads(lines[number - 1]) | changes).items() if value is not None
    }
    lines[number - 1] = json.dumps(line)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("number", "changes", "says"),
    [
        (1, {"id": {}}, "line 1 of .* does not name the subjects"),
        (1, {"id": {"a": "x", "b": " ", "c": "y"}}, "with a phrase for each id"),
        (1, {"id": {"a": "x", "b": "x", "c": "y"}}, "calls two subjects 'x'"),
        (1, {"id": {"a": "red", "b": "blue", "c": "green", "d": "w"}}, "has no photo of 'd'"),
        (3, {"id": "q"}, "line 3 of .* has the id 'q': expected one of its first line's, a, b, c"),
        (3, {"file_name": "../a1.png"}, "line 3 .* has the file_name '../a1.png'"),
        (3, {"file_name": "/etc/passwd"}, "line 3 .* has the file_name"),
        (3, {"file_name": "gone.png"}, "gone.png of line 3 .* cannot be read"),
        (3, {"file_name": "metadata.jsonl"}, "the photo of line 3 .* cannot be decoded"),
        (3, {"mask_path": 7}, "line 3 .* has the mask_path 7"),
        (3, {"text": None}, "line 3 .* has the text None"),
        (3, {"text": []}, "line 3 .* has the text"),
    ],
)
def test_a_wrong_line_is_told_by_its_number(folder, number, changes, says):
    changed(folder, number, **changes)
    with pytest.raises(DataError, match=says):
        load_subjects(folder)


def test_a_line_that_is_no_json_does_not_end_the_file(folder):
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "", '{"id": "a"', *lines[2:]]))
    with pytest.raises(DataError, match=r"line 4 of .* is no JSON"):
        load_subjects(folder)


def test_masks_of_another_size_or_without_white(folder):
    Image.new("L", (10, 10), 255).save(folder / "mask_b1.png")
    with pytest.raises(DataError, match=r"line 5 .* has a mask of 10 x 10 for a photo of 96 x 72"):
        load_subjects(folder)
    Image.new("L", (96, 72), 100).save(folder / "mask_b1.png")
    with pytest.raises(DataError, match=r"line 5 .* has an empty mask"):
        load_subjects(folder)


def test_a_caption_without_its_phrase_is_told(folder):
    changed(folder, 2, text="a photo of something")
    with pytest.warns(UserWarning, match=re.escape("line 2")):
        load_subjects(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read"):
        load_subjects(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        load_subjects(tmp_path)
