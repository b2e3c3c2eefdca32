"""What lies beside the pixels of a photo, before and after."""

import io
import os

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from mgie.data.photo_files import is_own, open_photo, photo_size, suffix_of, write_text, write_whole
from mgie.errors import DataError, DeviceError

BASE = ExifTags.Base
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def camera_photo(path, size=(60, 40), **options):
    """As a camera writes it: turned, with a place and notes of its maker."""
    exif = Image.Exif()
    exif.update({BASE.Orientation: 6, BASE.Model: "Camera", BASE.Copyright: "mine", BASE.Software: "1.0"})
    exif.get_ifd(ExifTags.IFD.Exif).update({
        BASE.ExifImageWidth: size[0], BASE.ExifImageHeight: size[1], BASE.MakerNote: b"notes",
        BASE.DateTimeOriginal: "2020:01:02 03:04:05",
    })  # fmt: skip
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    Image.effect_noise(size, 90).convert("RGB").save(path, exif=exif.tobytes(), icc_profile=SRGB, **options)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_what_is_known_of_a_photo_goes_with_its_edit(tmp_path, suffix):
    photo = open_photo(camera_photo(tmp_path / f"photo{suffix}"))
    assert photo.picture.size == (40, 60) == photo_size(tmp_path / f"photo{suffix}")
    out = tmp_path / f"out{suffix}"
    write_whole(photo.picture, out, like=photo)
    with Image.open(out) as picture:
        exif = picture.getexif()
        inner, place = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
        assert picture.size == (40, 60) and picture.info["icc_profile"] == SRGB
        assert exif.get(BASE.Orientation, 1) == 1
        assert exif[BASE.Model] == "Camera" and exif[BASE.Copyright] == "mine"
        assert inner[BASE.DateTimeOriginal] == "2020:01:02 03:04:05" and place[1] == "N"
        assert (inner[BASE.ExifImageWidth], inner[BASE.ExifImageHeight]) == (40, 60)
        assert BASE.MakerNote not in inner
        close = 0 if suffix in (".png", ".tif") else 12  # measured at most 8 (WebP of noise)
        away = np.abs(np.asarray(picture.convert("RGB"), int) - np.asarray(photo.picture, int)).mean()
        assert away <= close
    assert is_own(out) and not is_own(tmp_path / f"photo{suffix}") and not is_own(tmp_path / "none.png")


def test_strip_leaves_the_pixels_alone_in_srgb(tmp_path):
    photo = open_photo(camera_photo(tmp_path / "photo.png"))
    write_whole(photo.picture, tmp_path / "out.png", like=photo, strip=True)
    with Image.open(tmp_path / "out.png") as picture:
        assert not picture.getexif() and "icc_profile" not in picture.info
        away = np.abs(np.asarray(picture, int) - np.asarray(photo.picture, int)).max()
        assert away <= 2  # the library's own sRGB to sRGB; measured 1
    assert not is_own(tmp_path / "out.png")
    # Where each byte is promised, what they mean stays.
    write_whole(photo.picture, tmp_path / "exact.png", like=photo, strip=True, lossless=True)
    with Image.open(tmp_path / "exact.png") as picture:
        assert np.array_equal(picture, photo.picture) and picture.info["icc_profile"] == SRGB
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.new("RGB", (8, 8)).save(tmp_path / "odd.png", icc_profile=other)
    assert open_photo(tmp_path / "odd.png").profile is None


def test_sixteen_bits_are_told_of(tmp_path):
    values = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert open_photo(tmp_path / "deep.png").deep and not open_photo(tmp_path / "plain.png").deep


def test_a_jpeg_is_written_well(tmp_path):
    """Quality above 90: its tables divide by small numbers."""
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    write_whole(picture, tmp_path / "out.jpg")
    reference = io.BytesIO()
    picture.save(reference, "JPEG", quality=90)
    with Image.open(tmp_path / "out.jpg") as ours, Image.open(reference) as theirs:
        pairs = zip(ours.quantization[0], theirs.quantization[0])
        assert all(own <= other for own, other in pairs) and ours.quantization != theirs.quantization


def test_heic_asks_for_what_it_needs(tmp_path):
    (tmp_path / "photo.heic").write_bytes(b"....ftypheic")
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        with pytest.raises(DeviceError, match="pip install pillow-heif"):
            open_photo(tmp_path / "photo.heic")
    else:
        with pytest.raises(DataError, match="cannot be decoded"):
            open_photo(tmp_path / "photo.heic")
    assert [suffix_of(tmp_path / f"photo{end}") for end in (".heic", ".bmp", ".JPG", ".xyz")] == [
        ".jpg", ".png", ".JPG", ".png",
    ]  # fmt: skip


def test_texts_are_written_whole(tmp_path):
    write_text("said\n", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "said\n" and os.listdir(tmp_path) == ["a.txt"]
