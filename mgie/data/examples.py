"""EditPair -> Example: the conversation, where visual tokens are read, the pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from mgie.data.augment import Transform
from mgie.data.images import cover, decode, quick_resize, to_pixels, upright_size
from mgie.data.orders import nearest_shapes
from mgie.errors import DataError, UserError
from mgie.prompts import AbstractPrompts, Compat
from mgie.types import SOURCE, EditPair, Example, Size

REFERENCE_SIDE = 512
"""The reference makes every picture this large before it makes it smaller."""


@dataclass(kw_only=True)
class ExampleBuilder:
    """What one model needs to know of a pair, in its own tokens and sizes."""

    prompts: AbstractPrompts = field(kw_only=False)
    size: int
    """Pictures become so many pixels wide."""
    max_length: int
    """Most tokens of a conversation."""
    compat: Compat = "default"
    """`reference` resizes pictures twice, as the original program does."""
    shapes: Sequence[Size] | None = None
    """Widths and heights, of which the pictures of a pair get that nearest to its target's. None: squares."""
    transforms: Sequence[Transform] = ()
    """What changes a pair before anything is made of it."""

    def __post_init__(self):
        self.pad_id = self.prompts.pad_id

    def __call__(
        self, pair: EditPair, rng: Generator | None = None, stored: Mapping[str, Tensor] | None = None
    ) -> Example:
        """`rng` is what the transforms draw from. `stored` are fields of the example that are known already:
        what they were made of is not looked at. Raises DataError, naming the pair."""
        shape = None
        if self.shapes:
            sides = np.array([upright_size(pair.target, name=f"target of {pair.key}")])
            shape = self.shapes[nearest_shapes(sides, self.shapes)[0]]
        for transform in self.transforms:
            assert rng is not None
            pair = transform(pair, rng)
        has_source = pair.source is not None
        if not self.prompts.reads_pictures and (pair.pictures or SOURCE in pair.instruction):
            what = "pictures in its instruction, and this model reads no pictures in instructions"
            raise DataError(f"pair {pair.key} has {what}: leave it out, or take another model.")
        try:
            words, images = (pair.instruction, pair.expressive), int(has_source)
            told = self.prompts.conversation(*words, images=images, max_length=self.max_length)
        except UserError as error:
            raise DataError(f"pair {pair.key}: {error}") from error
        moments = dict(stored or {})
        clip = moments.pop("clip_features", None)
        source, pixels = None, torch.empty(3, 0, 0)
        if pair.source is not None and (clip is None or not moments):
            source = self.picture(pair.source, name=f"source of {pair.key}", shape=shape)
        if not moments:
            pixels = self.pixels(self.picture(pair.target, name=f"target of {pair.key}", shape=shape))
        return Example(
            input_ids=torch.tensor(told.input_ids), labels=torch.tensor(told.labels),
            read_at=torch.tensor(told.read_at, dtype=torch.long),
            target=pixels, has_source=has_source, key=pair.key,
            clip_pixels=self.clip_pixels(source if clip is None else None),
            clip_features=None if clip is None else clip[None][: int(has_source)],
            source=torch.zeros_like(pixels) if source is None or moments else self.pixels(source),
            **moments,
        )  # fmt: skip

    def clip_pixels(self, image: Image.Image | None) -> Float[Tensor, "m 3 s s"]:
        """What the vision tower sees of a picture: all of it, squeezed into a square; nothing of None. The
        reference's sees the centre square."""
        edge = self.prompts.edge
        if image is not None and edge and self.compat == "default":
            image = quick_resize(image, edge, edge)
        return self.prompts.clip_pixels(image)

    def picture(self, data: bytes, *, name: str, shape: Size | None = None) -> Image.Image:
        """Decode once, to the part of the picture from which both the CLIP pixels and the pixels are made."""
        return self.crop(decode(data, name=name), shape)

    def crop(self, image: Image.Image, shape: Size | None = None) -> Image.Image:
        """The largest part of a picture that has this width and height, at this size. Without `shape` its
        centre square at its own size, or as the reference wants it."""
        side = REFERENCE_SIDE if self.compat == "reference" else min(image.size)
        return cover(image, *(shape or (side, side)))

    def pixels(self, image: Image.Image) -> Float[Tensor, "3 y x"]:
        """What the codec sees of a picture that `picture` or `crop` returned."""
        if self.shapes:
            return to_pixels(image)
        if self.compat == "reference":
            return to_pixels(cover(image, self.size, self.size))
        return to_pixels(image, (self.size, self.size))
