"""EditPair -> Example: the conversation, where visual tokens are read, the pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from mgie.data.augment import Transform
from mgie.data.images import cover, decode, quick_resize, to_pixels, upright_size
from mgie.data.orders import nearest_shapes
from mgie.errors import DataError, UserError
from mgie.prompts import AbstractPrompts, Compat, Conversation
from mgie.types import SOURCE, EditPair, Example, Looks, Size

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

    def together(
        self, extras: Sequence[Mapping[str, Tensor]], mask: Bool[Tensor, "b t"]
    ) -> Mapping[str, Tensor]:
        """As the prompts do it."""
        return self.prompts.together(extras, mask)

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
        moments = dict(stored or {})
        clip = moments.pop("clip_features", None)
        source, pixels = None, torch.empty(3, 0, 0)
        if pair.source is not None and (clip is None or not moments):
            source = self.picture(pair.source, name=f"source of {pair.key}", shape=shape)
        told = self.conversation(pair, sizes=self._looked_at(pair, source, shape))
        if not moments:
            pixels = self.pixels(self.picture(pair.target, name=f"target of {pair.key}", shape=shape))
        return Example(
            input_ids=torch.tensor(told.input_ids), labels=torch.tensor(told.labels),
            read_at=torch.tensor(told.read_at, dtype=torch.long), extras=told.extras,
            target=pixels, has_source=has_source, key=pair.key,
            clip_pixels=self.clip_pixels(source if clip is None else None),
            clip_features=None if clip is None else clip[None][: int(has_source)],
            source=torch.zeros_like(pixels) if source is None or moments else self.pixels(source),
            **moments,
        )  # fmt: skip

    def conversation(self, pair: EditPair, *, sizes: Sequence[Size]) -> Conversation:
        """The words of a pair, with pictures of these sizes to look at. Raises DataError."""
        if not self.prompts.reads_pictures and (pair.pictures or SOURCE in pair.instruction):
            what = "pictures in its instruction, and this model reads no pictures in instructions"
            raise DataError(f"pair {pair.key} has {what}: leave it out, or take another model.")
        try:
            return self.prompts.conversation(
                pair.instruction, pair.expressive, sizes=sizes, max_length=self.max_length
            )
        except UserError as error:
            raise DataError(f"pair {pair.key}: {error}") from error

    def clip_pixels(self, image: Image.Image | None) -> Looks:
        """What the vision tower sees of a picture: all of it, squeezed into a square; nothing of None. The
        reference's sees the centre square."""
        if image is not None:
            image = quick_resize(image, *self.look_size(image.size))
        return self.prompts.clip_pixels(image)

    def look_size(self, size: Size) -> Size:
        """The size at which the prompts get a picture of this size to look at."""
        edge = self.prompts.edge if self.compat == "default" else 0
        return (edge, edge) if edge else size

    def _looked_at(self, pair: EditPair, source: Image.Image | None, shape: Size | None) -> list[Size]:
        """The size of the source as the prompts get it, without decoding it for that."""
        if pair.source is None:
            return []
        edged = self.look_size((0, 0))
        if all(edged):
            return [edged]
        if source is not None:
            return [source.size]
        return [self._cropped(upright_size(pair.source, name=f"source of {pair.key}"), shape)]

    def picture(self, data: bytes, *, name: str, shape: Size | None = None) -> Image.Image:
        """Decode once, to the part of the picture from which both the CLIP pixels and the pixels are made."""
        return self.crop(decode(data, name=name), shape)

    def crop(self, image: Image.Image, shape: Size | None = None) -> Image.Image:
        """The largest part of a picture that has this width and height, at this size. Without `shape` its
        centre square at its own size, or as the reference wants it."""
        return cover(image, *self._cropped(image.size, shape))

    def _cropped(self, size: Size, shape: Size | None) -> Size:
        side = REFERENCE_SIDE if self.compat == "reference" else min(size)
        return shape or (side, side)

    def pixels(self, image: Image.Image) -> Float[Tensor, "3 y x"]:
        """What the codec sees of a picture that `picture` or `crop` returned."""
        if self.shapes:
            return to_pixels(image)
        if self.compat == "reference":
            return to_pixels(cover(image, self.size, self.size))
        return to_pixels(image, (self.size, self.size))
