"""Pictures: from the bytes of a file to what a model sees, and back. Its crops and resizes are here."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from mgie.data.files import reason
from mgie.errors import DataError
from mgie.types import Size

MAX_PIXELS = 89_478_485
"""Larger pictures are refused before they are decoded (Pillow's own threshold for a decompression bomb)."""
MAX_SIDE = 65_535
"""What a JPEG can have, and a row or column that fits into memory."""
MAX_RATIO = 100
"""Of the longer side to the shorter: a line is no picture, and to resize one takes all memory."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What stands between the parts of a JPEG; FF within one is followed by 00 or by a restart mark."""
_PIXELS = (2 * (np.arange(256) / 255) - 1).astype(np.float32)
"""8-bit value -> pixel: computed in double precision as the reference does, and only once."""
SINGLE_FRAMES = {"MPO"}
"""Formats whose further frames are previews or depth maps of the photograph that is the first."""


def decode(data: bytes, *, name: str) -> Image.Image:
    """Decode a picture file to RGB, upright as its EXIF rotation says, transparency laid over white, 16 bits
    reduced to 8. Raises DataError that calls the picture `name`."""
    with opened(data, name, "a whole JPEG, PNG or WebP picture; replace the file") as image:
        return upright(image, name=name)


def decode_plain(data: bytes, *, name: str) -> Image.Image:
    """Decode a picture file to RGB as Pillow does by itself: not turned as its EXIF rotation says, and what
    is transparent in the colours that lie below. Published scores are of such pictures. Raises DataError."""
    with opened(data, name, "a whole JPEG, PNG or WebP picture; replace the file") as image:
        return image.convert("RGB")


def upright(image: Image.Image, *, name: str) -> Image.Image:
    """A picture that is open already, as `decode` returns it. Raises DataError."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):  # 16 bits per pixel, in one of Pillow's spellings
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            expected = "expected 8 or 16 bits; convert it to an 8-bit PNG"
            raise DataError(f"{name} has grey values outside 0..65535: {expected}.")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        what = "floating-point pixels, whose white is unknown"
        raise DataError(f"{name} has {what}: convert it to an 8-bit PNG.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def decode_mask(data: bytes, *, name: str) -> Image.Image:
    """Decode a mask to one channel, white where the edit is allowed. A picture with transparency is read as
    image editors write masks: the hole is where the edit is allowed; but if all that is not transparent is
    white, it was drawn on an empty layer, and is where the edit is allowed. Raises DataError."""
    with opened(data, name, "a whole one-channel PNG; replace the file") as image:
        return upright_mask(image, name=name)


def upright_mask(image: Image.Image, *, name: str) -> Image.Image:
    """A mask that is open already, as `decode_mask` returns it. Raises DataError."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            shown = np.asarray(image)[np.asarray(alpha) > 0]
            drawn = len(shown) > 0 and bool((shown[:, :3] == 255).all())
            return alpha if drawn else ImageOps.invert(alpha)
    return upright(image, name=name).convert("L")


def upright_size(data: bytes, *, name: str) -> Size:
    """Width and height of a picture as `decode` would return it, without decoding. Raises DataError."""
    with opened(data, name, "a picture") as image:
        # Pillow turns a TIFF by itself.
        turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else image.size


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of a picture, at `size` x `size` pixels: the reference's crop, with its rounding."""
    return cover(image, size, size)


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """The largest centred part of a picture with the shape width : height, at that size."""
    return resize(image, (width, height), box=covered(image.size, width, height))


def covered(size: Size, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, in pixels, of the largest centred part with the shape width : height of a
    picture of this width and height."""
    scale = min(size[0] / width, size[1] / height)
    crop = (min(round(width * scale), size[0]), min(round(height * scale), size[1]))
    left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    return left, top, left + crop[0], top + crop[1]


def letterboxed(image: Image.Image, side: int) -> Image.Image:
    """A whole picture in the middle of a black square (MIGE's references of new pictures), its longer side
    resized first."""
    scale = side / max(image.size)
    width, height = (max(int(length * scale), 1) for length in image.size)
    wide = image.width >= image.height
    image = resize(image, (width, image.height) if wide else (image.width, height))
    square_ = Image.new("RGB", (side, side))
    square_.paste(resize(image, (width, height)), ((side - width) // 2, (side - height) // 2))
    return square_


def fitted_size(size: Size, *, side: int, multiple: int = 1) -> Size:
    """(width, height) with about side x side pixels in the shape of `size`, both multiples of `multiple`.

    >>> fitted_size((4000, 3000), side=512, multiple=64)
    (576, 448)
    """
    width, height = size
    shape = (width / height) ** 0.5
    across, down = (max(round(exact / multiple), 1) * multiple for exact in (side * shape, side / shape))
    return across, down


def resize(image: Image.Image, size: Size, *, box: tuple[int, int, int, int] | None = None) -> Image.Image:
    """`image`, or its part `box` (left, top, right, bottom), at `size` (width, height), bicubic. The part is
    cut out first: a filter that looks beyond the crop's edge would differ from the reference there."""
    if box is not None and box != (0, 0, *image.size):
        image = image.crop(box)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def quick_resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """`image` at another size, as Pillow's bicubic filter makes it, about four times as fast. Fewer than one
    value in a hundred differs, by one in 255 (torch's port of Pillow's filter to vector instructions)."""
    if image.size == (width, height):
        return image
    return Image.fromarray(_resized(image, width, height).permute(1, 2, 0).contiguous().numpy())


def to_pixels(image: Image.Image, size: Size | None = None) -> Float[Tensor, "3 y x"]:
    """An RGB picture as numbers in [-1, 1]; at another size, as `quick_resize` makes it, if one is given."""
    if size in (None, image.size):
        planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    else:
        planes = _resized(image, *size).contiguous().numpy()
    return torch.from_numpy(_PIXELS.take(planes))


def _resized(image: Image.Image, width: int, height: int) -> UInt8[Tensor, "3 y x"]:
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return F.interpolate(values, size=(height, width), mode="bicubic", antialias=True)[0]


def to_image(pixels: Float[Tensor, "3 y x"]) -> Image.Image:
    """Numbers in [-1, 1] as an RGB picture; what lies outside is clipped."""
    values = pixels.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def encode(image: Image.Image, form: Literal["PNG", "BMP"]) -> bytes:
    """A picture's file, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    return buffer.getvalue()


@contextmanager
def opened(data: bytes, name: str, expected: str) -> Iterator[Image.Image]:
    """A single picture of a sensible size, not yet decoded. Raises DataError for any other, and for whatever
    its decoding meets: Pillow's decoders raise about ten unrelated types."""
    try:
        image = Image.open(io.BytesIO(data))
        size, wrong = f"{image.width} x {image.height} pixels", ""
        if image.width * image.height > MAX_PIXELS:
            wrong = f"is {size}: expected at most {MAX_PIXELS} in all; make it smaller"
        elif max(image.size) > min(MAX_SIDE, MAX_RATIO * min(image.size)):
            sides = f"sides of at most {MAX_SIDE}, the longer at most {MAX_RATIO} times the shorter"
            wrong = f"is {size}: expected {sides}; cut it"
        elif image.format not in SINGLE_FRAMES and (frames := getattr(image, "n_frames", 1)) > 1:
            wrong = f"is animated ({frames} frames): expected one still picture; save one frame of it"
        elif image.format in {"JPEG", "MPO"} and not _has_end(data):
            wrong = "is truncated (a JPEG without its end): expected a whole file; download it again"
        if wrong:
            raise DataError(f"{name} {wrong}.")
        yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        bomb = "a decompression bomb or a mistake: make it smaller"
        raise DataError(f"{name} has more than {MAX_PIXELS} pixels, {bomb}.") from error
    except Exception as error:
        raise DataError(f"{name} cannot be decoded ({reason(error)}): expected {expected}.") from error


def no_pictures(files: Iterable[Path]) -> list[Path]:
    """Those files whose first bytes are not a picture's; what is cut off is found when it is decoded."""

    def is_one(file: Path) -> bool:
        try:
            with Image.open(file):
                return True
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return False

    return [file for file in files if not is_one(file)]


def _has_end(data: bytes) -> bool:
    """Whether the first picture of a JPEG file has its end mark, whatever lies behind it, such as a film:
    Pillow decodes half a download and zeros as if it were whole, to a picture that is grey below."""
    at = 2
    while found := _MARKER.search(data, at):
        marker = data[found.start() + 1]
        if marker == 0xD9:
            return True
        at = found.end()
        if marker not in (0x01, 0xD8):  # these two have no length
            at += int.from_bytes(data[at : at + 2], "big")
    return False
