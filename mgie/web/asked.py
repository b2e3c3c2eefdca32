"""What a page asks for, of whatever came over the network: held to its rules at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Annotated, Any

from PIL import Image, UnidentifiedImageError

from llava_patch.ranges import Range, check_ranges
from mgie.data.files import MALFORMED
from mgie.data.images import decode, upright_size
from mgie.data.validation import check_instruction
from mgie.errors import ConfigError, DataError
from mgie.ranges import Megabytes, Megapixels, Scale, Seconds, Seed, Side, Steps, Waiting
from mgie.types import Region, Size

Several = Annotated[int, Range(ge=1, le=8)]
"""Pictures of one request."""
WORDS = 2000
"""Characters of an instruction."""
MOST_REGIONS = 16


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far the requests of a page may go."""

    seconds: Seconds = 300.0
    """Of work for each."""
    waiting: Waiting = 8
    """Requests that wait."""
    megabytes: Megabytes = 20.0
    """Of a file."""
    megapixels: Megapixels = 24.0
    """Of a picture."""
    memory: Megabytes = 512.0
    """Megabytes that the histories of all pages hold."""

    @property
    def most_bytes(self) -> int:
        """Of a file."""
        return int(self.megabytes * 2**20)

    def check_file(self, file: bytes, *, name: str) -> Size:
        """Width and height of a picture's file that is within them. Raises DataError."""
        if len(file) > self.most_bytes:
            raise DataError(
                f"{name} has {len(file) / 2**20:.1f} megabytes: expected at most {self.megabytes:g} here; "
                "save it smaller."
            )
        width, height = upright_size(file, name=name)
        if width * height > self.megapixels * 1e6:
            raise DataError(
                f"{name} is {width} x {height}, {width * height / 1e6:.1f} megapixels: expected at most "
                f"{self.megapixels:g} here; make it smaller."
            )
        return width, height


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request."""

    instruction: str
    base: int | None = None
    """The turn that is edited; None: a new picture."""
    count: Several = 1
    """Pictures, of this seed and the next ones."""
    seed: Seed = 0
    steps: Steps | None = None
    guidance: Scale | None = None
    image_guidance: Scale | None = None
    size: Side | None = None
    detail: bool = False
    mask: Image.Image | None = field(default=None, repr=False)
    """White where the picture may change."""
    regions: tuple[Region, ...] = ()
    images: tuple[bytes, ...] = field(default=(), repr=False)
    """Files of what `<image>` stands for."""

    def check(self, *, places: bool) -> None:
        """Refuse what can be seen to be wrong without the editor; `places`: whether instructions may have
        some for pictures. Raises DataError and ConfigError."""
        if len(self.instruction) > WORDS:
            raise DataError(
                f"the instruction has {len(self.instruction)} characters: expected at most {WORDS}; say it "
                "shorter."
            )
        check_instruction(self.instruction, pictures=len(self.images) if places or self.images else None)
        check_ranges(self)


def asked(given: dict[str, Any], *, bounds: Bounds, places: bool = False) -> Asked:
    """A request of values as they came: numbers may be texts, floats or empty, files are bytes; `places`:
    whether the editor reads pictures in instructions. Raises DataError and ConfigError."""
    instruction = given.get("instruction")
    images = tuple(given.get("images") or ())
    for number, file in enumerate(images, 1):
        bounds.check_file(file, name=f"picture {number} of the instruction")
    request = Asked(
        instruction=instruction if isinstance(instruction, str) else "",
        base=_whole(given.get("base"), "base"),
        count=_or(_whole(given.get("count"), "count"), 1), seed=_or(_whole(given.get("seed"), "seed"), 0),
        steps=_whole(given.get("steps"), "steps"), guidance=_number(given.get("guidance"), "guidance"),
        image_guidance=_number(given.get("image_guidance"), "image_guidance"),
        size=_whole(given.get("size"), "size"), detail=given.get("detail") is True,
        mask=given.get("mask"), regions=regions_of(given.get("boxes")), images=images,
    )  # fmt: skip
    request.check(places=places)
    return request


def regions_of(text: Any) -> tuple[Region, ...]:
    """Regions of lines such as "0.1,0.2,0.5,0.9 a red ball". Raises DataError."""
    lines = [line.strip() for line in (text if isinstance(text, str) else "").splitlines() if line.strip()]
    if len(lines) > MOST_REGIONS:
        raise DataError(f"there are {len(lines)} boxes: expected at most {MOST_REGIONS}; leave some out.")
    found = []
    for number, line in enumerate(lines, 1):
        numbers, _, phrase = line.partition(" ")
        try:
            x0, y0, x1, y1 = (float(each) for each in numbers.split(","))
        except ValueError as error:
            raise DataError(
                f"box {number} is {line[:60]!r}: expected x0,y0,x1,y1 in parts of width and height and a "
                "phrase, such as 0.1,0.2,0.5,0.9 a red ball."
            ) from error
        found.append(Region(phrase=phrase.strip(), box=(x0, y0, x1, y1)))
    return tuple(found)


def painted_mask(layers: Sequence[Image.Image | None] | None) -> Image.Image | None:
    """The mask that somebody painted: white where any layer is not transparent; None where nothing is."""
    mask = None
    for layer in layers or ():
        if layer is None:
            continue
        inked = layer.convert("RGBA").getchannel("A").point([255 * (value >= 64) for value in range(256)])
        if mask is None:
            mask = inked
        elif mask.size == inked.size:
            mask.paste(255, mask=inked)
    return mask if mask is not None and mask.getbbox() else None


def read_mask(file: bytes, *, bounds: Bounds) -> Image.Image:
    """A mask that came as a file. Raises DataError."""
    bounds.check_file(file, name="the mask")
    try:
        return Image.open(BytesIO(file)).convert("L")
    except (*MALFORMED, SyntaxError, UnidentifiedImageError) as error:
        raise DataError("the mask cannot be decoded: expected a whole PNG picture, white inside.") from error


def inside(files: Sequence[bytes]) -> list[Image.Image] | None:
    """The pictures that an instruction holds; None for none. Raises DataError."""
    named = (f"picture {number} of the instruction" for number in range(1, len(files) + 1))
    return [decode(file, name=name) for file, name in zip(files, named)] or None


def _number(value: Any, name: str) -> float | None:
    """A number that came as whatever a page sends; None where it was left empty. Raises ConfigError."""
    if value is None or value == "":
        return None
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not math.isfinite(number):
        raise ConfigError(f"{name} is {str(value)[:40]!r}: expected a number.")
    return number


def _whole(value: Any, name: str) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _number(value, name)
    if number is not None and number != int(number):
        raise ConfigError(f"{name} is {str(value)[:40]!r}: expected a whole number.")
    return None if number is None else int(number)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
