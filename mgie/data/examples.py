"""EditPair -> Example: the prompt, its labels, where the visual tokens are read, and the pixels.

Training and inference share one prompt: `ExampleBuilder(...)(pair)` and `.ask(...)` build it in one place.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from llava_patch.processor import Processor
from mgie.data.images import cover, decode, quick_resize, square, to_pixels, to_resized_pixels
from mgie.data.orders import nearest_shape
from mgie.errors import DataError, UserError
from mgie.tokens import read_positions, with_visual_tokens
from mgie.tokens import visual_tokens as token_names
from mgie.types import EditPair, Example

REFERENCE_SIDE = 512
"""The reference makes every picture this large before it makes it smaller."""


class ExampleBuilder:
    """What one model needs to know of a pair, in its own tokens and sizes."""

    def __init__(
        self,
        processor: Processor,
        *,
        question: str,
        visual_tokens: int,
        size: int,
        max_length: int,
        compat: Literal["default", "reference"] = "default",
        shapes: Sequence[tuple[int, int]] | None = None,
    ):
        """`question` has `{instruction}` where the user's words belong; pictures become `size` pixels wide.

        A sequence is at most `max_length` tokens long: the expressive text is shortened, never the visual
        tokens. `reference` cuts from the right instead, counts labels and resizes pictures twice, as the
        original program does. With `shapes` (width, height) a picture gets the nearest of them instead of a
        square.
        """
        self.processor = processor
        self.question = question
        self.visual_tokens = visual_tokens
        self.size = size
        self.max_length = max_length
        self.compat = compat
        self.shapes = shapes
        self.pad_id: int = processor.tokenizer.pad_id
        self._visual_ids = [processor.tokenizer.id_of(name) for name in token_names(visual_tokens)]

    def __call__(self, pair: EditPair) -> Example:
        """Raises DataError, naming the pair, where it cannot become an example."""
        ids, labels, read_at = self.encode_text(pair, images=int(pair.source is not None))
        target = self.picture(pair.target, name=f"target of {pair.key}")
        source = self.picture(pair.source, name=f"source of {pair.key}") if pair.source is not None else None
        pixels = self.pixels(target)
        return Example(
            input_ids=ids,
            labels=labels,
            read_at=read_at,
            clip_pixels=self.clip_pixels(source),
            source=torch.zeros_like(pixels) if source is None else self.pixels(source),
            has_source=source is not None,
            target=pixels,
            key=pair.key,
        )

    def encode_text(
        self, pair: EditPair, *, images: int
    ) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"], Int[Tensor, " k"]]:
        """The ids, labels and read positions of a pair with so many pictures to look at. Raises DataError."""
        reference = self.compat == "reference"
        try:
            encoded = self.processor.encode(
                self._question(pair.instruction),
                with_visual_tokens(pair.expressive, self.visual_tokens),
                images=images,
                max_length=self.max_length,
                truncate="right" if reference else "text",
            )
        except UserError as error:
            raise DataError(f"pair {pair.key}: {error}") from error
        ids, labels = encoded.input_ids, encoded.labels
        visual = [label for label in labels if label in self._visual_ids]
        if not reference and visual != self._visual_ids:
            raise DataError(
                f"pair {pair.key}: the answer does not end in {self.visual_tokens} visual tokens; its "
                "expressive text "
                "must not hold any."
            )
        first = labels.index(self._visual_ids[0]) if self._visual_ids[0] in labels else self.max_length
        # Without visual tokens (reference only) the states lie at the end of the padded batch, which
        # `collate` knows; no batch is longer than this.
        read_at = read_positions(first, self.visual_tokens)
        return torch.tensor(ids), torch.tensor(labels), torch.tensor(read_at)

    def ask(self, image: Image.Image | None, instruction: str) -> list[int]:
        """The prompt for inference: everything up to where the model begins to speak. Raises DataError."""
        return self.processor.encode(self._question(instruction), images=int(image is not None)).input_ids

    def clip_pixels(self, image: Image.Image | None) -> Float[Tensor, "m 3 s s"]:
        """What CLIP sees of a picture that `picture` or `crop` returned; nothing of None."""
        clip_pixels = self.processor.clip_image
        if image is None:
            return torch.zeros(0, 3, clip_pixels.size, clip_pixels.size)
        if self.compat == "default" and image.width == image.height:
            image = quick_resize(image, clip_pixels.edge, clip_pixels.edge)
        return self.processor.clip_pixels(image)[None]

    def picture(self, data: bytes, *, name: str) -> Image.Image:
        """Decode once, to the part of the picture from which both the CLIP pixels and the pixels are made."""
        return self.crop(decode(data, name=name))

    def crop(self, image: Image.Image) -> Image.Image:
        """The centre square of a picture at its own size, or as the reference or `shapes` want it."""
        if self.shapes:
            return cover(image, *nearest_shape(image.size, self.shapes))
        return square(image, REFERENCE_SIDE if self.compat == "reference" else min(image.size))

    def pixels(self, image: Image.Image) -> Float[Tensor, "3 y x"]:
        """What the codec sees of a picture that `picture` or `crop` returned."""
        if self.shapes:
            return to_pixels(image)
        if self.compat == "reference":
            return to_pixels(square(image, self.size))
        return to_resized_pixels(image, self.size, self.size)

    def _question(self, instruction: str) -> str:
        return self.question.replace("{instruction}", instruction)
