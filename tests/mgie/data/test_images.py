import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.data import images
from mgie.errors import DataError


def noise(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": (3,), "RGBA": (4,), "L": (), "CMYK": (4,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return (
        Image.fromarray(values, mode=None)
        if mode != "CMYK"
        else Image.fromarray(values).convert("RGB").convert("CMYK")
    )


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(form):
    image = images.decode(saved(noise(20, 10), form), name="it")
    assert image.mode == "RGB" and image.size == (20, 10)


def test_png_is_exact():
    image = noise(7, 5)
    assert images.decode(saved(image), name="it").tobytes() == image.tobytes()


@pytest.mark.parametrize("rotation", range(1, 9))
def test_exif_rotation_is_applied(rotation):
    image = Image.new("RGB", (30, 20), "white")
    image.paste((200, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = rotation
    upright = images.decode(saved(image, "PNG", exif=exif), name="it")
    assert upright.size == ((30, 20) if rotation < 5 else (20, 30))
    red_corner = {
        1: (0, 0),
        2: (-1, 0),
        3: (-1, -1),
        4: (0, -1),
        5: (0, 0),
        6: (-1, 0),
        7: (-1, -1),
        8: (0, -1),
    }[rotation]
    x, y = red_corner[0] % upright.width, red_corner[1] % upright.height
    assert upright.getpixel((x, y)) == (200, 0, 0)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = images.decode(saved(Image.fromarray(values)), name="it")
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_cmyk_grey_palette_and_bilevel_become_rgb():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert images.decode(saved(red.convert("CMYK"), "JPEG", quality=100), name="it").getpixel((4, 4))[0] > 240
    assert images.decode(saved(red.convert("P")), name="it").getpixel((0, 0)) == (255, 0, 0)
    assert images.decode(saved(Image.new("L", (2, 2), 77)), name="it").getpixel((0, 0)) == (77, 77, 77)
    assert images.decode(saved(Image.new("1", (2, 2), 1)), name="it").getpixel((0, 0)) == (255, 255, 255)


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    decoded = images.decode(saved(image), name="it")
    assert decoded.getpixel((0, 0)) == (255, 0, 0) and decoded.getpixel((1, 0)) == (255, 255, 255)


def test_published_scores_are_of_pictures_as_pillow_reads_them():
    """Not turned, what is transparent in its own colours, a palette in colours before anything is resized."""
    upright = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.decode_plain(saved(upright, "JPEG", exif=exif), name="a").size == (4, 2)
    clear = Image.new("RGBA", (2, 2), (200, 30, 40, 0))
    assert images.decode_plain(saved(clear, "PNG"), name="a").getpixel((0, 0)) == (200, 30, 40)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    found = images.decode_plain(saved(palette, "PNG"), name="a")
    assert found.mode == "RGB" and found.getpixel((1, 1)) == (10, 20, 30)
    with pytest.raises(DataError, match="b cannot be decoded"):
        images.decode_plain(b"nothing", name="b")


def test_refused_pictures_say_why(monkeypatch):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    animated = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    jpeg = saved(noise(64, 64), "JPEG")
    cases = {
        "animated": animated,
        "truncated": jpeg[: len(jpeg) // 2],
        "truncated (": jpeg[: len(jpeg) // 2] + bytes(len(jpeg)),
        "cannot be decoded": b"no picture at all",
        "cannot be decoded ": saved(noise(9, 9))[:60],
        "floating-point": saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"),
    }
    for words, data in cases.items():
        with pytest.raises(DataError, match=r"^photo\.jpg ") as caught:
            images.decode(data, name="photo.jpg")
        assert words.strip() in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(images, "MAX_PIXELS", 50)
    with pytest.raises(DataError, match="at most 50"):
        images.decode(saved(noise(10, 6)), name="photo.jpg")


def test_decompression_bomb_is_refused_before_decoding():
    header = saved(Image.new("1", (20_000, 20_000)))
    with pytest.raises(DataError, match="bomb"):
        images.decode(header, name="it")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_what_lies_behind_a_jpeg_is_no_matter_and_what_is_missing_is(options):
    exif = Image.Exif()
    exif[0x9286] = "a comment \xff\xd9"  # an end mark that is none, as in an embedded preview
    jpeg = saved(noise(64, 64), "JPEG", exif=exif, **options)
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\x00\x0c" * 9  # a motion photo's, with a JPEG's mark in it
    assert images.decode(jpeg + film, name="it").tobytes() == images.decode(jpeg, name="it").tobytes()
    for rest in (b"", bytes(len(jpeg)), b"\xff\x00" * 40):
        with pytest.raises(DataError, match="truncated"):
            images.decode(jpeg[: len(jpeg) // 2] + rest, name="it")


@pytest.mark.parametrize("size", [(1, 80_000_000), (80_000, 1000), (1, 200), (606, 5)])
def test_a_line_is_no_picture(size):
    data = bytearray(saved(Image.new("1", (8, 8))))
    data[16:24] = struct.pack(">II", *size)  # PNG's width and height: the rest is not looked at
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(DataError, match=r"^it is .* the longer at most 100 times the shorter; cut it"):
        images.decode(bytes(data), name="it")
    assert images.decode(saved(Image.new("1", (600, 6))), name="it").size == (600, 6)


def test_square_crops_the_centre_with_floor_division():
    image = noise(9, 4)
    assert images.square(image, 4).tobytes() == image.crop((2, 0, 6, 4)).tobytes()
    image = noise(4, 9)
    assert images.square(image, 4).tobytes() == image.crop((0, 2, 4, 6)).tobytes()
    assert images.square(noise(40, 30), 16).size == (16, 16)


@pytest.mark.parametrize("size", [(9, 9), (64, 32), (100, 90)])
def test_the_quick_filter_is_pillows_but_for_rounding(size):
    image = noise(64, 48)
    quick = np.asarray(images.quick_resize(image, *size)).astype(int)
    slow = np.asarray(images.resize(image, size)).astype(int)
    assert np.abs(quick - slow).max() <= 1 and (quick != slow).mean() < 0.01
    assert images.quick_resize(image, 64, 48) is image


def test_cover_takes_the_centre_at_the_asked_shape():
    image = noise(40, 20)
    assert images.cover(image, 20, 20).tobytes() == image.crop((10, 0, 30, 20)).tobytes()
    assert images.cover(image, 16, 8).size == (16, 8)


def test_pixels_there_and_back():
    image = noise(6, 5)
    pixels = images.to_pixels(image)
    assert pixels.shape == (3, 5, 6) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    assert pixels[2, 4, 3].item() == pytest.approx(2 * image.getpixel((3, 4))[2] / 255 - 1)
    assert images.to_image(pixels).tobytes() == image.tobytes()
    assert images.to_image(torch.full((3, 1, 1), 7.0)).getpixel((0, 0)) == (255, 255, 255)


def test_masks():
    grey = Image.new("L", (3, 2), 255)
    grey.putpixel((0, 0), 0)
    assert images.decode_mask(saved(grey), name="m").tobytes() == grey.tobytes()
    holed = Image.new("RGBA", (3, 2), (9, 9, 9, 255))
    holed.putpixel((1, 1), (9, 9, 9, 0))
    mask = images.decode_mask(saved(holed), name="m")
    assert mask.mode == "L" and mask.getpixel((1, 1)) == 255 and mask.getpixel((0, 0)) == 0
    with pytest.raises(DataError, match=r"^m cannot be decoded"):
        images.decode_mask(b"x", name="m")
