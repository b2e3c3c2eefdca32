"""EditPair -> Example: the conversation, where visual tokens are read, pixels, regions."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.random import Generator
from PIL import Image
from torch import Tensor

from mgie.data.augment import Transform
from mgie.data.images import cover, decode, decode_mask, quick_resize, to_pixels, upright_size
from mgie.data.orders import nearest_shapes
from mgie.data.regions import placed
from mgie.errors import DataError, UserError
from mgie.prompts import AbstractPrompts, Compat, Conversation
from mgie.types import SOURCE, ControlBatch, EditPair, Example, Looks, Size

log = logging.getLogger(__name__)
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
    masked: bool = False
    """Whether a pair's mask says where errors of the painting count."""
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """How much the pairs of a task count, where that is not 1."""
    phrase_ids: Callable[[str], list[int]] | None = None
    """The words of a region's phrase, where regions are learnt. None: they are not looked at."""

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
        shown = self.prompts.shown(pair.instruction, photo=has_source)
        if clip is not None and pair.pictures:
            raise DataError(
                f"pair {pair.key} has pictures in its instruction, and features of the vision tower are "
                "stored for sources alone: prepare the data without --store vision."
            )
        told = self.conversation(pair, sizes=self._looked_at(pair, shown, source, shape))
        if not moments:
            pixels = self.pixels(self.picture(pair.target, name=f"target of {pair.key}", shape=shape))
        inside = self._inside(pair, told, source)
        return Example(
            input_ids=torch.tensor(told.input_ids), labels=torch.tensor(told.labels),
            pictures=torch.stack(inside) if inside else None,
            pictures_at=torch.tensor([first for _, first in told.placed]) if inside else None,
            read_at=torch.tensor(told.read_at, dtype=torch.long), extras=told.extras,
            target=pixels, has_source=has_source, key=pair.key,
            clip_pixels=self._looks(pair, shown, source) if clip is None else self.clip_pixels(None),
            clip_features=None if clip is None else clip[None][: int(has_source)],
            source=torch.zeros_like(pixels) if source is None or moments else self.pixels(source),
            loss_mask=self._mask(pair, shape), weight=self.task_weights.get(pair.task, 1.0),
            controls=None if self.phrase_ids is None else self._regions(pair, shape, self.phrase_ids),
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

    def _mask(self, pair: EditPair, shape: Size | None) -> Float[Tensor, "1 y x"] | None:
        """Where its errors count, as large as its pixels, cut out as they are."""
        if not self.masked or pair.mask is None:
            return None
        mask = self.crop(decode_mask(pair.mask, name=f"mask of {pair.key}"), shape)
        mask = mask if self.shapes else mask.resize((self.size, self.size), Image.Resampling.BOX)
        return torch.from_numpy(np.array(mask, np.float32) / 255)[None]

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

    def _looked_at(
        self, pair: EditPair, shown: Sequence[int | None], source: Image.Image | None, shape: Size | None
    ) -> list[Size]:
        """The sizes of what is shown as the prompts get it, without decoding it for that."""
        edged = self.look_size((0, 0))
        return [edged if all(edged) else self._size(pair, which, source, shape) for which in shown]

    def _size(
        self, pair: EditPair, which: int | None, source: Image.Image | None, shape: Size | None
    ) -> Size:
        if which is None and source is not None:
            return source.size
        data, name = self._named(pair, which)
        return self._cropped(upright_size(data, name=name), shape if which is None else None)

    def _looks(self, pair: EditPair, shown: Sequence[int | None], source: Image.Image | None) -> Looks:
        """What the vision tower is shown, in its order."""
        looks = [self.clip_pixels(self._part(pair, which, source)) for which in shown]
        return torch.cat(looks) if looks else self.clip_pixels(None)

    def _inside(self, pair: EditPair, told: Conversation, source: Image.Image | None) -> list[Tensor]:
        """What the codec sees of the pictures that have a place in the instruction: squares."""
        parts = [self._part(pair, which, source) for which, _ in told.placed]
        return [to_pixels(cover(part, self.size, self.size)) for part in parts]

    def _part(self, pair: EditPair, which: int | None, source: Image.Image | None) -> Image.Image:
        """A picture of the instruction, or for None the source, as far as it is decoded already."""
        if which is None and source is not None:
            return source
        data, name = self._named(pair, which)
        return self.picture(data, name=name)

    def _named(self, pair: EditPair, which: int | None) -> tuple[bytes, str]:
        """The file of a picture, and what errors call it. Raises DataError for one that there is not."""
        if which is None and pair.source is not None:
            return pair.source, f"source of {pair.key}"
        if which is None or which >= len(pair.pictures):
            raise DataError(
                f"pair {pair.key} has {len(pair.pictures)} pictures, fewer than its instruction speaks of: "
                "prepare the data again."
            )
        return pair.pictures[which], f"picture {which + 1} of {pair.key}"

    def _regions(self, pair: EditPair, shape: Size | None, ids: Callable[[str], list[int]]) -> ControlBatch:
        """The regions of a pair in its pictures as they are seen; those whose phrase is too long are left
        out, and told."""
        known: dict[str, list[int]] = {}
        for region in pair.regions:
            try:
                known[region.phrase] = ids(region.phrase)
            except UserError as error:
                log.warning(f"a region of {pair.key} is left out: {error}")
        size = upright_size(pair.target, name=f"target of {pair.key}")
        return placed(
            [region for region in pair.regions if region.phrase in known], known.__getitem__, size=size,
            shape=self._cropped(size, shape), pixels=shape or (self.size, self.size),
        )  # fmt: skip

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
