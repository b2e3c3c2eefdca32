"""Picture files of every kind, sound and unsound, and what only looks like one."""

import io
import os
import random
import struct
from pathlib import Path

from PIL import Image

SIZES = [(1, 1), (2, 3), (7, 5), (33, 64), (96, 64), (640, 3), (3, 640), (1000, 700), (1, 20000), (20000, 1)]
FORMATS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "BMP": ("1", "L", "RGB"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "ICO": ("RGBA",),
    "PPM": ("L", "RGB"),
    "TGA": ("RGB",),
    "JPEG2000": ("RGB",),
}
ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
SPECIAL = (
    "fifo", "folder", "device", "empty device", "link to the picture", "link to itself", "dangling link",
    "no permission", "socket", "missing",
)  # fmt: skip


def sound(rng: random.Random) -> tuple[str, bytes]:
    """A whole picture of some kind."""
    kind = rng.choice([*FORMATS, "JPEG", "PNG", "WEBP"])
    mode = rng.choice(FORMATS[kind])
    size = rng.choice([(33, 64), (96, 64)] if kind in ("ICO", "JPEG2000", "WEBP") else SIZES)
    image = Image.new("RGB", size, rng.choice(["red", "gray", "navy"]))
    image = Image.merge("RGB", [band.effect_spread(3) for band in image.split()])
    image = Image.new(mode, size) if mode in ("I;16", "F") else image.convert(mode)
    options: dict = {}
    told = ""
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.4:
        orientation = rng.choice([0, 1, 3, 6, 8, 9, 77])
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"], told = exif, f", EXIF orientation {orientation}"
    if kind == "JPEG" and rng.random() < 0.3:
        options["progressive"] = True
    if (kind == "GIF" and rng.random() < 0.5) or (kind in ("WEBP", "PNG", "TIFF") and rng.random() < 0.12):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)] * 2}
        told += ", several frames"
    if kind == "PNG" and mode == "P" and rng.random() < 0.5:
        options["transparency"] = 0
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"{kind} {mode} {size[0]} x {size[1]}{told}", buffer.getvalue()


def unsound(rng: random.Random) -> tuple[str, bytes]:
    """A picture's bytes after an accident, or bytes that are none."""
    what, data = sound(rng)
    how = rng.choice(["cut", "bit", "head", "behind", "zeros", "claims", "text", "noise", "zip", "svg"])
    if how == "cut":
        data = data[: rng.randrange(len(data))]
    elif how in ("bit", "head"):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(len(changed) if how == "bit" else min(64, len(changed)))] ^= (
                1 << rng.randrange(8)
            )
        data = bytes(changed)
    elif how == "behind":
        data += rng.randbytes(rng.choice([1, 100, 5000])) + rng.choice([b"", b"\xff\xda\x00", b"ftypmp42"])
    elif how == "zeros":
        half = len(data) // 2
        data = data[:half] + b"\0" * (len(data) - half)
    elif how == "claims":
        sides = rng.choice([(2**31 - 1, 2**31 - 1), (30000, 30000), (0, 0), (65000, 1), (1, 80_000_000)])
        head = struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0)
        from zlib import crc32

        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head
        data += struct.pack(">I", crc32(b"IHDR" + head)) + b"\0\0\0\0IEND\xaeB`\x82"
        what = f"PNG that claims {sides[0]} x {sides[1]}"
    else:
        data = {
            "text": b"this is no picture", "noise": rng.randbytes(400),
            "zip": b"PK\x03\x04" + rng.randbytes(60),
            "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        }[how]  # fmt: skip
        what = "a file"
    return f"{what}, {how}", data


def place_special(kind: str, path: Path) -> None:
    """Something at `path` that is no ordinary file."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "empty device":
        path.symlink_to("/dev/null")
    elif kind == "link to the picture":
        other = path.with_name("real.png")
        Image.new("RGB", (40, 30), "red").save(other, format="PNG")
        path.symlink_to(other)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nothing.png"))
    elif kind == "no permission":
        Image.new("RGB", (40, 30), "red").save(path, format="PNG")
        path.chmod(0)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as door:
            here = os.getcwd()
            os.chdir(path.parent)  # names of sockets are short
            door.bind(path.name)
            os.chdir(here)
