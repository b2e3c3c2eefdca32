"""Photo files: what lies beside their pixels is read with them, and written with the edit."""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from mgie.data.files import regular
from mgie.data.images import decode, opened, upright_size
from mgie.errors import DataError, DeviceError
from mgie.types import Size

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""What a result may end in, and the format that Pillow writes for it."""
HEIC = (".heic", ".heif")
"""Photos of telephones; Pillow reads them with the help of pillow-heif."""
BECOMES = {**dict.fromkeys((*HEIC, ".avif"), ".jpg"), ".bmp": ".png", ".gif": ".png"}
"""What is read and not written, and what it is written as."""
READ = (*FORMATS, *BECOMES)
"""How the files of a folder end that are taken for photos."""
LONGEST = {"JPEG": 65500, "WEBP": 16383}
"""Pixels along a side that a format can hold. (libjpeg's and libwebp's own bounds)"""
QUALITY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"}, "WEBP": {"quality": 95},
}  # fmt: skip
"""How each format is written."""
_BASE = ExifTags.Base
KEPT = {
    _BASE.ImageDescription, _BASE.Make, _BASE.Model, _BASE.XResolution, _BASE.YResolution,
    _BASE.ResolutionUnit, _BASE.DateTime, _BASE.Artist, _BASE.HostComputer, _BASE.Copyright, _BASE.Rating,
    _BASE.XPTitle, _BASE.XPComment, _BASE.XPAuthor, _BASE.XPKeywords, _BASE.XPSubject,
}  # fmt: skip
"""EXIF of a file's first directory that still holds of an edited, upright picture. A TIFF's directory also
says how its pixels lie, which does not."""
DROPPED = {_BASE.MakerNote}
"""Of the directory of the camera: notes whose inner addresses break when the file is written anew."""
MAKER = "mgie"


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo, and what its file says of it."""

    picture: Image.Image
    """Upright, in colours."""
    exif: Image.Exif
    profile: bytes | None
    """What its red, green and blue mean (an ICC profile); None where the file does not say."""
    deep: bool
    """Whether the file had 16 bits for each value, of which 8 are read."""


def open_photo(path: Path) -> Photo:
    """A photo with all that is kept of its file. Raises DataError and DeviceError."""
    return read_photo(_read(path), name=str(path))


def read_photo(data: bytes, *, name: str) -> Photo:
    """The same of a file's bytes. Raises DataError that calls the photo `name`."""
    picture = decode(data, name=name)
    with opened(data, name, "a picture") as image:
        profile = image.info.get("icc_profile") or b""
        exif = _kept(image.getexif(), picture.size)
        deep = image.mode.startswith("I") or (image.format == "PNG" and data[24] == 16)
    profile = profile if profile[16:20] == b"RGB " else None
    return Photo(picture=picture, exif=exif, profile=profile, deep=deep)


def photo_size(path: Path) -> Size:
    """Width and height of a photo as `open_photo` returns it, by the head of its file alone. Raises DataError
    and DeviceError."""
    return upright_size(_read(path), name=str(path))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"there is no photo {path}: expected the path of a JPEG, PNG or WebP file.")
    if path.suffix.lower() in HEIC:
        _learn_heic(path)
    return regular(path).read_bytes()


def _learn_heic(path: Path) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise DeviceError(
            f"{path} is a HEIC file, which Pillow reads with the package pillow-heif: `pip install "
            "pillow-heif`, or save it as a JPEG."
        ) from error
    register_heif_opener()


def _kept(exif: Image.Exif, size: Size) -> Image.Exif:
    """What holds of the picture that is written; its orientation is in its pixels."""
    kept = Image.Exif()
    kept.update({tag: value for tag, value in exif.items() if tag in KEPT})
    camera = {tag: value for tag, value in exif.get_ifd(ExifTags.IFD.Exif).items() if tag not in DROPPED}
    if camera:
        sizes = {_BASE.ExifImageWidth: size[0], _BASE.ExifImageHeight: size[1]}
        camera |= {tag: value for tag, value in sizes.items() if tag in camera}
        kept.get_ifd(ExifTags.IFD.Exif).update(camera)
    if place := exif.get_ifd(ExifTags.IFD.GPSInfo):
        kept.get_ifd(ExifTags.IFD.GPSInfo).update(place)
    return kept


def suffix_of(photo: Path) -> str:
    """How the edit of a photo ends that keeps its format, such as ".jpg"; PNG where it cannot be written."""
    suffix = photo.suffix.lower()
    return photo.suffix if suffix in FORMATS else BECOMES.get(suffix, ".png")


def write_whole(
    picture: Image.Image,
    target: Path,
    *,
    like: Photo | None = None,
    lossless: bool = False,
    strip: bool = False,
) -> None:
    """Write `picture` under a temporary name and rename it, so that `target` is never half a picture.

    It gets the EXIF data and the colour profile of the photo that it is `like`, and says that it was made
    here; with `strip` nothing but the pixels, in sRGB. `lossless`: where the format can.
    """
    kind = FORMATS[target.suffix.lower()]
    options: dict[str, Any] = dict(QUALITY.get(kind, {}))
    if lossless and kind == "WEBP":
        options = {"lossless": True}
    profile = None if like is None else like.profile
    if strip:
        # Where every byte is promised, what the bytes mean goes with them.
        picture, profile = (picture, profile) if lossless else (plain(picture, profile), None)
    else:
        exif = Image.Exif() if like is None else like.exif
        exif[_BASE.Software] = f"{MAKER} {_version()}"
        options["exif"] = exif.tobytes()  # a TIFF takes directories within it in this form only
    _write(target, lambda file: picture.save(file, format=kind, icc_profile=profile, **options))


def write_text(text: str, target: Path) -> None:
    """Write a text file in the same way."""
    _write(target, lambda file: file.write(text.encode("utf-8")))


def is_own(path: Path) -> bool:
    """Whether a picture says that it was made here."""
    try:
        with Image.open(path) as picture:
            return str(picture.getexif().get(_BASE.Software, "")).startswith(f"{MAKER} ")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return False


def _write(target: Path, write: Any) -> None:
    temporary = target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def plain(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The same colours without a profile: in sRGB."""
    if profile is None:
        return picture
    import io

    from PIL import ImageCms

    try:
        plain = ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        )
    except ImageCms.PyCMSError:  # a profile that nobody understands
        return picture
    return plain or picture


def _version() -> str:
    try:
        return version(MAKER)
    except PackageNotFoundError:
        return "(not installed)"
