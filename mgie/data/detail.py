"""A change that was made to a small copy of a photo, brought to the photo's own detail.

Around each place the small edit is told as a colour transform of the small photo (a guided filter with a
colour guide, He et al. 2013, section 3.5, fitted at the small size as in the fast guided filter, He and Sun
2015). The large photo goes through these transforms, so its detail stays where the edit kept what was there;
where the edit is something new no transform fits, and what is left over is added, enlarged. Brought down
again, the result is the small edit. A flat place tells little of its transform: there it is that of a wider
window, and where that is flat as well, nothing or all, as the colours stayed or went.
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

RADII = (16, 4)
"""Of the windows of a transform, in pixels of the small picture."""
EPSILON = 1e-3
"""Variance of colours, in [0, 1], below which a window counts as flat."""
MOVED = 0.1
"""Distance of mean colours beyond which the colours of a flat place went."""
STRIP = 256
"""Rows of the large picture that are computed at once."""


def with_detail(photo: Image.Image, before: Image.Image, after: Image.Image) -> Image.Image:
    """The change from `before` to `after`, small pictures of one size, made to the large RGB photo that
    `before` is a copy of."""
    guide, edit = (_values(each) for each in (before, after))
    moved = [_mean(each, RADII[0]) for each in (guide, edit)]
    stayed = (-(moved[0] - moved[1]).square().sum(0) / (2 * MOVED**2)).exp()
    slope = torch.eye(3)[..., None, None] * stayed
    offset = torch.zeros_like(guide)
    for radius in RADII:
        slope, offset = _transforms(guide, edit, slope, radius)
    left_over = edit - (torch.einsum("ioyx,iyx->oyx", slope, guide) + offset)
    planes = [*slope.flatten(0, 1), *(offset + left_over)]
    small = [Image.fromarray(plane.numpy(), mode="F") for plane in planes]
    result = np.empty((photo.height, photo.width, 3), np.uint8)
    for top in range(0, photo.height, STRIP):
        bottom = min(top + STRIP, photo.height)
        scale = before.height / photo.height
        box = (0.0, top * scale, float(before.width), bottom * scale)
        size = (photo.width, bottom - top)
        large = [np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=box)) for plane in small]
        strip = np.asarray(photo.crop((0, top, photo.width, bottom)), np.float32) / 255
        for channel in range(3):
            values = large[9 + channel] + sum(large[3 * own + channel] * strip[..., own] for own in range(3))
            result[top:bottom, :, channel] = np.clip(values * 255 + 0.5, 0, 255)
    return Image.fromarray(result)


def _transforms(
    guide: Float[Tensor, "3 y x"], edit: Float[Tensor, "3 y x"], told: Float[Tensor, "3 3 y x"], radius: int
) -> tuple[Float[Tensor, "3 3 y x"], Float[Tensor, "3 y x"]]:
    """The colour transform (from, to) of each place and its offset: those of all windows over it, averaged
    (equations 19 to 21, but where a window is flat what was `told` before takes the place of nothing)."""
    means, wanted = _mean(guide, radius), _mean(edit, radius)
    own = _mean((guide[:, None] * guide[None]).flatten(0, 1), radius).unflatten(0, (3, 3))
    cross = _mean((guide[:, None] * edit[None]).flatten(0, 1), radius).unflatten(0, (3, 3))
    own = own - means[:, None] * means[None] + EPSILON * torch.eye(3)[..., None, None]
    cross = cross - means[:, None] * wanted[None] + EPSILON * told
    slope = torch.einsum("ijyx,joyx->ioyx", _inverse(own), cross)
    offset = wanted - torch.einsum("ioyx,iyx->oyx", slope, means)
    return _mean(slope.flatten(0, 1), radius).unflatten(0, (3, 3)), _mean(offset, radius)


def _inverse(symmetric: Float[Tensor, "3 3 y x"]) -> Float[Tensor, "3 3 y x"]:
    """Of one matrix for each place, by its cofactors: far faster than a solver for matrices so small."""
    red, green, blue = symmetric
    columns = [torch.linalg.cross(*pair, dim=0) for pair in ((green, blue), (blue, red), (red, green))]
    return torch.stack(columns, dim=1) / (red * columns[0]).sum(0)


def _mean(planes: Float[Tensor, "c y x"], radius: int) -> Float[Tensor, "c y x"]:
    side, planes = 2 * radius + 1, planes[None]
    for size, pad in (((1, side), (0, radius)), ((side, 1), (radius, 0))):
        planes = F.avg_pool2d(planes, size, stride=1, padding=pad, count_include_pad=False)
    return planes[0]


def _values(picture: Image.Image) -> Float[Tensor, "3 y x"]:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
