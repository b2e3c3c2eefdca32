import pytest

from mgie.errors import DataError
from mgie.instructions import check_counts, clean, introduced, parse, task_of, with_source


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("make it dark", ("make it dark",)),
        ("replace the cup in <source> by <image>", ("replace the cup in", None, "by", 0)),
        ("a<ImageHere>beside <IMAGE>", ("a", 0, "beside", 1)),
        ("<image> <image> on a table", (0, 1, "on a table")),
        ("  ", ()),
    ],
)
def test_the_parts_of_an_instruction(text, parts):
    assert parse(text).parts == parts


@pytest.mark.parametrize(
    ("text", "given", "wrong"),
    [
        ("replace it by <image>", {"pictures": 0}, "1 times and came with 0 pictures"),
        ("make it dark", {"pictures": 2}, "0 times and came with 2 pictures"),
        ("<source> beside <source>", {"pictures": 0}, "2 times, and there is one photo"),
        ("<image> in <source>", {"pictures": 1, "photo": False}, "1 times, and there is no photo"),
        ("<image> <source>", {"pictures": 1}, "no words"),
    ],
)
def test_places_and_pictures_that_do_not_agree(text, given, wrong):
    with pytest.raises(DataError, match=wrong):
        check_counts(text, **given)


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("Make it dark.", "Make it dark in <source>"),
        ("make the photo dark like this picture", "make <source> dark like this picture"),
        ("change the picture frame", "change the picture frame in <source>"),
        ("sort the images", "sort the images in <source>"),
        ("the sky of <source> is red", "the sky of <source> is red"),
    ],
)
def test_a_photo_gets_one_place(text, placed):
    assert with_source(text) == placed


def test_cleaning_keeps_the_first_words_and_what_is_glued_to_them():
    assert clean(" ".join(["word"] * 100)).split() == ["word"] * 88
    assert clean("A<image>,  (so)!") == "a<image>, so"


def test_what_stands_before_an_instruction():
    trained = introduced("Make it dark!", "edit", "train")
    assert trained == introduced("Make it dark!", "edit", "released")
    assert trained == "Follow the instruction to edit the image:\n make it dark"
    raw, together = (introduced("Put<image>there", "subject_edit", name) for name in ("train", "released"))
    assert raw == "Subject-driven editing:\n put<image>there"
    assert together == "subject-driven editing put<image>there"


def test_the_task_follows_from_what_is_there():
    assert task_of(parse("a <image>"), photo=False) == "subject"
    assert task_of(parse("make <source> dark"), photo=True) == "edit"
    assert task_of(parse("replace the cup by <image>"), photo=True) == "subject_edit"
