"""The toy world's photographs: their sources, their nine edits, the words for both.

| name      | package, file               | licence                                                | split |
| --------- | --------------------------- | ------------------------------------------------------ | ----- |
| astronaut | scikit-image, astronaut.png | public domain (NASA)                                   | train |
| rocket    | scikit-image, rocket.jpg    | public domain (SpaceX)                                 | train |
| retina    | scikit-image, retina.jpg    | CC0 1.0 (Mikael Häggström)                             | train |
| tissue    | scikit-image, ihc.png       | no known copyright restrictions (CMMI)                 | train |
| pagoda    | scikit-learn, china.jpg     | CC BY 2.0, flickr.com/photos/danielbuechele/6061409035 | train |
| cat       | scikit-image, chelsea.png   | CC0 (Stéfan van der Walt)                              | test  |
| coffee    | scikit-image, coffee.png    | CC0 (Rachel Michetti)                                  | test  |
| flower    | scikit-learn, flower.jpg    | CC BY 2.0, flickr.com/photos/vultilion/6056698931      | test  |

The statements are those of the two packages (docstrings of skimage.data, sklearn/datasets/images/README.txt).
The files lie in the packages' wheels: none is downloaded, none is part of this repository.
"""

from collections.abc import Callable
from colorsys import rgb_to_hsv
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFilter

from mgie.errors import DeviceError

PHOTOS: dict[str, tuple[str, str]] = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
    "pagoda": ("sklearn", "datasets/images/china.jpg"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
"""Name -> (package, path inside it)."""

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("astronaut", "rocket", "retina", "tissue", "pagoda"),
    "test": ("cat", "coffee", "flower"),
}
"""A photograph belongs to one split; a model never sees a piece of a test photograph in training."""

Levels = Float[ndarray, "y x 3"]
"""A picture as numbers from 0 to 1."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
CLEAR = 0.075
"""Smallest mean difference between an edit's result and every other one's, or none's, of the same crop."""
TRIES = 12
"""Crops that are looked at before the best of them is taken."""


def _luma(levels: Levels) -> Float[ndarray, "y x 1"]:
    return (levels @ LUMA)[..., None]


def _contrast(levels: Levels) -> Levels:
    light = _luma(levels)
    return np.clip(levels + 0.5 + 0.5 * np.tanh(5 * (light - 0.5)) / np.tanh(2.5) - light, 0, 1)


def _sepia(levels: Levels) -> Levels:
    light = _luma(levels)
    return np.concatenate([0.12 + 0.85 * light, 0.06 + 0.74 * light, 0.5 * light], axis=-1)


def _tint(levels: Levels, up: int, down: int) -> Levels:
    tinted = levels.copy()
    tinted[..., up] = 1 - (1 - levels[..., up]) * 0.6
    tinted[..., down] = levels[..., down] * 0.6
    return tinted


OPS: dict[str, Callable[[Levels], Levels]] = {
    "darken": lambda levels: levels * 0.45,
    "brighten": lambda levels: 1 - (1 - levels) * 0.45,
    "contrast": _contrast,
    "warm": lambda levels: _tint(levels, up=0, down=2),
    "cool": lambda levels: _tint(levels, up=2, down=0),
    "invert": lambda levels: 1 - levels,
    "grey": lambda levels: np.repeat(_luma(levels), 3, axis=-1),
    "sepia": _sepia,
    "saturate": lambda levels: np.clip(_luma(levels) + 2.2 * (levels - _luma(levels)), 0, 1),
}
"""Edit of a whole photograph -> how it is done. One strength each."""


def _filtered(levels: Levels, *filters: ImageFilter.Filter) -> Levels:
    image = _to_image(levels)
    for each in filters:
        image = image.filter(each)
    return _levels(image)


def _blur(levels: Levels) -> Levels:
    return _filtered(levels, ImageFilter.GaussianBlur(len(levels) / 22))


def _sharpen(levels: Levels) -> Levels:
    return _filtered(levels, ImageFilter.UnsharpMask(radius=len(levels) / 32, percent=350, threshold=0))


def _vignette(levels: Levels) -> Levels:
    y, x = (np.linspace(-1, 1, edge, dtype=np.float32) for edge in levels.shape[:2])
    far = np.sqrt(y[:, None] ** 2 + x[None] ** 2)
    return levels * (1 - 0.85 * np.clip((far - 0.45) / 0.75, 0, 1) ** 1.2)[..., None]


EVERY: dict[str, Callable[[Levels], Levels]] = OPS | {
    "blur": _blur,
    "sharpen": _sharpen,
    "posterise": lambda levels: np.round(levels * 2) / 2,
    "vignette": _vignette,
    "mirror": lambda levels: np.ascontiguousarray(levels[:, ::-1]),
}
"""The edits of OPS, and those that are no function of a pixel's colour."""

REGIONS: dict[str, tuple[float, float, float, float]] = {
    "left half": (0.0, 0.0, 0.5, 1.0),
    "right half": (0.5, 0.0, 1.0, 1.0),
    "top half": (0.0, 0.0, 1.0, 0.5),
    "bottom half": (0.0, 0.5, 1.0, 1.0),
    "middle": (0.2, 0.2, 0.8, 0.8),
}
"""Name of a part of a picture -> its left, top, right and bottom, as parts of the sides. The middle is an
ellipse, the others are boxes."""

ASKED: dict[str, tuple[str, ...]] = {
    "darken": (
        "make it darker",
        "darken the photo",
        "make the photo darker",
        "turn down the light",
        "make this photo dark",
        "use less light",
    ),
    "brighten": (
        "make it brighter",
        "brighten the photo",
        "make the photo brighter",
        "turn up the light",
        "make this photo bright",
        "use more light",
    ),
    "contrast": (
        "add more contrast",
        "increase the contrast",
        "make the contrast stronger",
        "give the photo more contrast",
        "use a stronger contrast",
    ),
    "warm": (
        "make it warmer",
        "make the photo warm",
        "add a warm tone",
        "give the photo warm light",
        "use warmer colours",
    ),
    "cool": (
        "make it cooler",
        "make the photo cool",
        "add a cool tone",
        "give the photo cool light",
        "use cooler colours",
    ),
    "invert": (
        "invert the colours",
        "invert the photo",
        "turn it into a negative",
        "make a negative of the photo",
        "turn this photo into its negative",
    ),
    "grey": (
        "make it black and white",
        "turn this into a greyscale photo",
        "remove all colour",
        "make the photo greyscale",
        "take the colour out of the photo",
    ),
    "sepia": (
        "make it sepia",
        "add a sepia tone",
        "make it look like an old photo",
        "turn this into a sepia photo",
        "give the photo an old look",
    ),
    "saturate": (
        "make the colours stronger",
        "saturate the colours",
        "add more colour",
        "make the photo colourful",
        "use stronger colours",
    ),
    "blur": ("blur the photo", "make it blurred", "make the photo soft", "defocus the photo", "blur this"),
    "sharpen": (
        "sharpen the photo",
        "make it sharper",
        "sharpen this",
        "bring out the details",
        "make the edges crisp",
    ),
    "posterise": (
        "posterise the photo",
        "make it a poster",
        "use only a few colours",
        "turn this into a poster",
        "reduce the photo to few colours",
    ),
    "vignette": (
        "add a vignette",
        "darken the edges of the photo",
        "make the corners dark",
        "give the photo dark edges",
        "add dark corners",
    ),
    "mirror": (
        "mirror the photo",
        "flip it from left to right",
        "flip the photo",
        "mirror this",
        "turn left into right",
    ),
}
"""Edit -> the ways to ask for it."""

SAID: dict[str, str] = {
    "darken": "the {before} photo becomes darker",
    "brighten": "the {before} photo becomes brighter",
    "contrast": "the {before} photo gets more contrast",
    "warm": "the {before} photo becomes warmer",
    "cool": "the {before} photo becomes cooler",
    "invert": "the {before} photo turns into a {after} negative",
    "grey": "the {before} photo becomes greyscale",
    "sepia": "the {before} photo turns sepia",
    "saturate": "the {before} photo gets stronger colours",
    "blur": "the {before} photo becomes blurred",
    "sharpen": "the {before} photo becomes sharp",
    "posterise": "the {before} photo becomes a poster",
    "vignette": "the {before} photo gets dark corners",
    "mirror": "the {before} photo is mirrored",
}
"""Edit -> what is said of its result; {before} and {after} are measured in the two pictures."""

LIGHTS = ("dark", "soft", "bright")
TONES = ("grey", "red", "orange", "yellow", "green", "blue", "purple")


@lru_cache(maxsize=len(PHOTOS))
def photo(name: str) -> Image.Image:
    """A photograph out of an installed package."""
    package, path = PHOTOS[name]
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DeviceError(
            f"The toy world's photograph '{name}' is in the package {package}, which is not installed; "
            "run: pip install 'mgie[toy]'"
        )
    file = Path(found.submodule_search_locations[0], path)
    if not file.is_file():
        raise DeviceError(
            f"The installed {package} lacks {path}, the photograph '{name}' of the toy world; "
            f"expected a release of {package} that ships it, run: pip install --force-reinstall 'mgie[toy]'"
        )
    with Image.open(file) as image:
        return image.convert("RGB")


def apply(op: str, image: Image.Image) -> Image.Image:
    """The photograph after one of EVERY edit."""
    return _to_image(EVERY[op](_levels(image)))


def tone(image: Image.Image) -> str:
    """How light a picture is and of which colour, in two words: "dark blue"."""
    red, green, blue = _levels(image.resize((1, 1), Image.Resampling.BOX))[0, 0].tolist()
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    word = LIGHTS[(light > 0.36) + (light > 0.62)]
    if max(red, green, blue) - min(red, green, blue) < 0.06:
        return f"{word} grey"
    hue = 360 * rgb_to_hsv(red, green, blue)[0]
    names = (
        (16, "red"),
        (42, "orange"),
        (70, "yellow"),
        (165, "green"),
        (255, "blue"),
        (320, "purple"),
        (361, "red"),
    )
    return f"{word} {next(name for end, name in names if hue < end)}"


def draw_photo(
    draw: Random, split: str, op: str, size: int
) -> tuple[Image.Image, Image.Image, str, str, dict[str, str]]:
    """A crop of a photograph of the split, the crop after one of EVERY edit, what is asked, what is said, and
    facts. Some of those of OPS are done in a part of the picture only."""
    region = draw.choice(list(REGIONS)) if op in OPS and draw.random() < 0.3 else None
    name, before, edited = _clear_crop(draw, split, op, size)
    asked, said = draw.choice(ASKED[op]), SAID[op].format(before=tone(before), after=tone(_to_image(edited)))
    facts = {"world": "photo", "photo": name, "edit": op}
    if region is not None:
        inside = region_mask(region, size)
        edited = np.where(inside[..., None], edited, _levels(before))
        facts |= {"edit": f"{op} in the {region}", "region": region}
        asked, said = f"{asked}, but only in the {region}", f"in the {region} {said}"
    return before, _to_image(edited), asked, said, facts


def draw_masked(
    draw: Random, split: str, mask: Image.Image
) -> tuple[Image.Image, Image.Image, str, str, dict[str, str]]:
    """As `draw_photo`, as large as a mask and where it is white alone, of which no word tells."""
    op = draw.choice(list(OPS))
    name, before, edited = _clear_crop(draw, split, op, mask.width)
    after = _to_image(np.where(np.asarray(mask)[..., None] > 0, edited, _levels(before)))
    said = SAID[op].format(before=tone(before), after=tone(_to_image(edited)))
    facts = {"world": "photo", "photo": name, "edit": f"{op} inside", "op": op}
    return before, after, draw.choice(ASKED[op]), said, facts


def _clear_crop(draw: Random, split: str, op: str, size: int) -> tuple[str, Image.Image, Levels]:
    """A photograph's name, a crop of it, and that crop after `op`, which cannot be taken for another edit
    of EVERY; of train photographs the colours are other ones in two of three, as there are few."""
    best = None
    for _ in range(TRIES):
        name = draw.choice(SPLITS[split])
        image = _crop(draw, photo(name), size)
        levels = _levels(image)
        if split == "train" and draw.random() < 0.67:  # a picture's light and tint are to be seen, not known
            levels = levels[..., draw.sample(range(3), 3)] * [draw.uniform(0.5, 1.15) for _ in range(3)]
            image = _to_image(levels)
            levels = _levels(image)
        edited = EVERY[op](levels)
        others = [levels, *(do(levels) for other, do in EVERY.items() if other != op)]
        clear = min(float(np.abs(edited - other).mean()) for other in others)
        if best is None or clear > best[0]:
            best = (clear, name, image, edited)
        if clear >= CLEAR:
            break
    assert best is not None
    return best[1:]


def region_mask(region: str, side: int) -> Bool[ndarray, "y x"]:
    """Which pixels of a square picture one of the REGIONS covers."""
    image = Image.new("1", (side, side))
    pen, (left, top, right, bottom) = ImageDraw.Draw(image), (round(edge * side) for edge in REGIONS[region])
    (pen.ellipse if region == "middle" else pen.rectangle)((left, top, right - 1, bottom - 1), fill=1)
    return np.asarray(image)


def _crop(draw: Random, image: Image.Image, size: int) -> Image.Image:
    """A random square of half to all of the shorter edge, perhaps mirrored, at `size`."""
    side = round(min(image.size) * draw.uniform(0.5, 1.0))
    left, top = draw.randint(0, image.width - side), draw.randint(0, image.height - side)
    box = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else image


def _levels(image: Image.Image) -> Levels:
    return np.asarray(image, np.float32) / 255


def _to_image(levels: Levels) -> Image.Image:
    return Image.fromarray((levels * 255 + 0.5).clip(0, 255).astype(np.uint8))
