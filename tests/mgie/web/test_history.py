"""The tree of what was made, and how much of it is kept."""

import io
import json

import pytest
from PIL import ExifTags, Image

from mgie.data.photo_files import open_photo, read_photo
from mgie.errors import DataError
from mgie.web.history import LEFT, Histories, History, Turn, without_loss
from mgie.web.service import write_turn


def picture(shade: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    return without_loss(Image.new("RGB", size, (shade, 0, 0)))


def test_turns_lie_behind_what_they_were_made_of():
    history = History()
    first = history.add(file=picture())
    history.add(file=picture(1), parent=1, instruction="a")
    history.add(file=picture(2))
    history.add(file=picture(3), parent=2, instruction="b")
    history.add(file=picture(4), parent=1, instruction="c")
    assert [(depth, turn.number) for depth, turn in history.tree()] == [
        (0, 1),
        (1, 2),
        (2, 4),
        (1, 5),
        (0, 3),
    ]
    assert history.get(1) is first and history.get(4).picture.getpixel((0, 0)) == (3, 0, 0)
    for wrong in (9, None, "1", [1], True * 77):
        with pytest.raises(DataError, match="no such picture"):
            history.get(wrong)


def test_all_together_hold_so_many_bytes():
    each = len(picture())
    histories = Histories(most=3 * each + each // 2)
    for owner in ("a", "b", "c"):
        histories.add(owner, file=picture())
    histories.of("a")  # used again
    histories.add("c", file=picture(1), parent=1)
    assert list(histories._kept) == ["a", "c"]
    for shade in range(5):
        histories.add("c", file=picture(shade), parent=1)
    turns = histories.of("c").turns
    assert histories.size < 4 * each and max(turns) == 7 and 1 not in turns
    assert [depth for depth, _ in histories.of("c").tree()] == [0] * len(turns)  # what they came from is gone


def test_a_closed_page_is_kept_for_a_while(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("mgie.web.history.time.monotonic", lambda: clock[0])
    histories = Histories(most=10**6)
    for owner in ("a", "b", "c"):
        histories.add(owner, file=picture())
        histories.leave(owner)
    histories.leave("nobody")
    clock[0] = LEFT - 1
    assert histories.of("b").turns  # it was only out of reach
    clock[0] = LEFT + 1
    assert histories.of("b").turns and set(histories._kept) == {"b"}


def turn(**facts) -> Turn:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), (9, 9, 9)).save(buffer, format="JPEG", exif=exif)
    like = read_photo(buffer.getvalue(), name="a photo")
    told = {"seed": 3, "forced": True}
    return Turn(number=2, parent=1, file=picture(), like=like, instruction="make it dörk", said="dark",
                facts=told, **facts)  # fmt: skip


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_download_tells_what_was_asked_or_nothing(tmp_path, suffix):
    full = open_photo(write_turn(turn(suffix=suffix), tmp_path, strip=False))
    camera = full.exif.get_ifd(ExifTags.IFD.Exif)
    told = json.loads(camera[ExifTags.Base.UserComment].removeprefix(b"ASCII\0\0\0"))
    assert told == {"instruction": "make it dörk", "said": "dark", "seed": 3, "forced": True}
    assert full.exif[ExifTags.Base.Make] == "a camera"
    assert full.exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    bare = write_turn(turn(suffix=suffix), tmp_path, strip=True)
    with Image.open(bare) as plain:
        assert bare.suffix == suffix and not plain.getexif()
