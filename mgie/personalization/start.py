"""Sampling from noise whose mean already shows the subjects (MuDI, Jang et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mgie.data.images import to_pixels
from mgie.data.orders import generator
from mgie.errors import ConfigError, DataError
from mgie.models.codec import Codec
from mgie.personalization.segmix import CutOut, Place, Placement, compose, sample_placement
from mgie.personalization.start_options import SubjectStart
from mgie.types import Box, Size
from mgie.weights.adapter import Adapter, Learnt

STREAM = 0x57A
"""Sets these draws apart from all others of the same seed."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the pictures of a call begin with."""

    options: SubjectStart
    shown: tuple[tuple[Learnt, ...], ...]
    """The subjects of each picture, in the order of its words."""
    seeds: tuple[int, ...]

    def of(self, rows: Sequence[int]) -> "Start":
        """Some of the pictures."""
        return replace(
            self, shown=tuple(self.shown[row] for row in rows), seeds=tuple(self.seeds[row] for row in rows)
        )

    def shifted(self, codec: Codec, noise: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c h w"]:
        """The noise of the pictures, of this width and height, with the subjects in it."""
        canvases = [self.canvas(row, size) for row in range(len(self.seeds))]
        pixels = torch.stack([to_pixels(image) for image, _ in canvases]).to(codec.device, codec.dtype)
        mask = torch.stack([torch.from_numpy(union)[None] for _, union in canvases])
        mean = codec.moments(pixels)[0]
        none = torch.zeros_like(mean)
        return mean_shifted(noise, codec.target_latents(mean, none, none), mask, gamma=self.options.gamma)

    def canvas(self, row: int, size: Size) -> tuple[Image.Image, Bool[np.ndarray, "y x"]]:
        """A white picture of this width and height with the subjects of one on it, and where they are."""
        rng = generator(self.seeds[row], STREAM)
        cuts = [_read(each.cut_outs[int(rng.integers(len(each.cut_outs)))]) for each in self.shown[row]]
        sizes = [cut.image.size for cut in cuts]
        if self.options.boxes is not None:
            placement = in_boxes(sizes, self.options.boxes, size)
        else:
            side = min(size)
            placement = sample_placement(rng, sizes, canvas=side)
            aside, above = (size[0] - side) // 2, (size[1] - side) // 2
            moved = (replace(place, x=place.x + aside, y=place.y + above) for place in placement.places)
            placement = replace(placement, places=tuple(moved))
        composed = compose(cuts, placement, size)
        return composed.image, composed.union


def start_of(
    options: SubjectStart | None,
    worn: Sequence[Adapter],
    words: Sequence[str],
    seeds: Sequence[int],
    *,
    session: bool = False,
    compat: str = "default",
) -> Start | None:
    """What a call of these words begins with; None where nothing is asked for. Raises ConfigError and
    DataError for what no start can do."""
    if options is None:
        return None
    learnt = [each for adapter in worn for each in adapter.learnt]
    if not learnt:
        raise ConfigError(
            "a start shows learnt subjects, and there are none: give --subjects, or leave it out."
        )
    if session or compat == "reference":
        other = "a session, which begins as its first picture did" if session else 'compat="reference"'
        raise ConfigError(f"a start from subjects cannot be had with {other}: leave one of them out.")
    shown = []
    for each in words:
        named = named_in(each, learnt)
        if len(named) < 2:
            known = ", ".join(repr(subject.phrase) for subject in learnt)
            raise DataError(
                f"{each[:60]!r} names {len(named)} of the subjects {known}: a start is for two or more; name "
                "them as they were learnt, or leave the start out."
            )
        if options.boxes is not None and len(options.boxes) != len(named):
            raise DataError(
                f"there are {len(options.boxes)} boxes to start from, and {each[:60]!r} names {len(named)} "
                "subjects: give one each."
            )
        if bare := next((subject for subject in named if not subject.cut_outs), None):
            raise DataError(f"the adapter has no cut-out of {bare.phrase!r}: train it with masks.")
        shown.append(named)
    for box in options.boxes or ():
        if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise ConfigError(f"the box {list(box)} of a start: expected x0 < x1 and y0 < y1 from 0 to 1.")
    return Start(options=options, shown=tuple(shown), seeds=tuple(seeds))


def named_in(words: str, learnt: Sequence[Learnt]) -> tuple[Learnt, ...]:
    """The subjects that words name, in their order there."""
    places = [(words.casefold().find(each.phrase.casefold()), each) for each in learnt]
    return tuple(each for at, each in sorted(places, key=lambda place: place[0]) if at >= 0)


def in_boxes(sizes: Sequence[Size], boxes: Sequence[Box], canvas: Size) -> Placement:
    """Things of these (widths, heights) in the middle of these boxes of a canvas, as large as fits; the last
    one on top."""
    places = []
    for (width, height), (x0, y0, x1, y1) in zip(sizes, boxes, strict=True):
        across, down = (x1 - x0) * canvas[0], (y1 - y0) * canvas[1]
        factor = min(across / width, down / height)
        own = max(1, int(width * factor)), max(1, int(height * factor))
        x, y = int(x0 * canvas[0] + (across - own[0]) / 2), int(y0 * canvas[1] + (down - own[1]) / 2)
        x, y = (min(at, side - length) for at, side, length in zip((x, y), canvas, own))
        places.append(Place(x=x, y=y, width=own[0], height=own[1]))
    return Placement(places=tuple(places), order=tuple(range(len(places))))


def mean_shifted(
    noise: Float[Tensor, "b c h w"],
    latents: Float[Tensor, "b c h w"],
    mask: Float[Tensor, "b 1 y x"] | Bool[Tensor, "b 1 y x"],
    *,
    gamma: float,
) -> Float[Tensor, "b c h w"]:
    """Noise of unit variance with `gamma` times the latents of a canvas as its mean, where the canvas' mask
    (0 to 1, of its pixels) is; elsewhere its mean stays 0, and nothing is said of the background.

    `latents` are scaled as the denoiser sees them. The result is what a scheduler multiplies by its
    `init_noise_sigma`. With Stable Diffusion's schedule, noise added to a picture up to the last step is this
    at a gamma of 0.068.
    """
    small = F.interpolate(mask.to(noise), size=noise.shape[-2:], mode="bilinear", align_corners=False)
    return torch.addcmul(noise, latents.to(noise), small, value=gamma)


def _read(path: str) -> CutOut:
    """A cut-out of an adapter's folder."""
    with Image.open(path) as image:
        image = image.convert("RGBA")
    return CutOut(image=image.convert("RGB"), mask=image.getchannel("A"))
