"""How published protocols bring a picture to a size, crop it and prepare it, byte for byte.

Resizing is Pillow's, on 8-bit RGB. The crop rounds half to even, as torchvision does and the official scripts
with it; transformers' processors round down, which is one pixel off at every fourth margin.
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mgie.evaluation.published.protocol import Crop, Filter, Squash
from mgie.types import Size

COLOURS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation of red, green and blue in [0, 1]."""


def at_size(picture: Image.Image, size: Size, filter: Filter = "bicubic") -> Image.Image:
    """The picture at `size` (width, height); as it is, where it has that size."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling[filter.upper()])


def short(picture: Image.Image, side: int, filter: Filter = "bicubic") -> Image.Image:
    """The picture with a shorter side of `side` pixels. The longer one is cut to a whole number; a picture
    whose shorter side fits already is not resampled."""
    width, height = picture.size
    if width <= height:
        return at_size(picture, (side, int(side * height / width)), filter)
    return at_size(picture, (int(side * width / height), side), filter)


def center_crop(picture: Image.Image, side: int) -> Image.Image:
    """The `side` x `side` pixels in the middle of a picture that has at least as many; a margin that cannot
    be halved is rounded half to even."""
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    return picture.crop((left, top, left + side, top + side))


def to_unit(picture: Image.Image) -> Float[Tensor, "3 y x"]:
    """An RGB picture as float32 numbers in [0, 1], which is what metrics and feature models are defined on
    (`pixels` in [-1, 1] are the codec's)."""
    values = np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
    return torch.from_numpy(values).float().div(255)


def prepared(picture: Image.Image, prep: Crop | Squash) -> Float[Tensor, "3 s s"]:
    """What a model of features sees of a picture: less the mean, divided by the deviation."""
    shift, scale = (torch.tensor(each).reshape(3, 1, 1) for each in COLOURS[prep.colours])
    if isinstance(prep, Crop):
        values = to_unit(center_crop(short(picture.convert("RGB"), prep.short, prep.filter), prep.crop))
        return (values - shift) / scale
    values, size = to_unit(picture), (prep.squash, prep.squash)
    values = 2 * values - 1 if prep.signed else values
    return (F.interpolate(values[None], size=size, mode="bicubic", align_corners=False)[0] - shift) / scale


def clip_prep(side: int) -> Crop:
    """CLIP's own preparation (Radford et al. 2021): 224 for ViT-B/32 and ViT-L/14, 336 for ViT-L/14@336."""
    return Crop(short=side, crop=side, colours="clip")


DINO_PREP = Crop(short=256, crop=224, colours="imagenet")
"""DINO's preparation (Caron et al. 2021), as MagicBrush (Zhang et al. 2023) scores with it. The processor
that lies beside the published weights on the hub is another one: it squashes to 224 x 224."""
