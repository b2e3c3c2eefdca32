"""EditPair -> Example: the prompt, its labels, where the visual tokens are read, and the pixels.

Training and inference share one prompt: `ExampleBuilder(...)(pair)` and `.ask(...)` build it in the same place.
"""

from typing import Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from llava_patch.errors import LlavaError
from llava_patch.processor import Processor
from mgie.data.images import decode, square, to_pixels
from mgie.errors import DataError
from mgie.tokens import read_positions, visual_tokens, with_visual_tokens
from mgie.types import EditPair, Example

REFERENCE_SIDE = 512
"""The reference makes every picture this large before it makes it smaller (specs/mgie.md, section 8)."""


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
        compat: Literal["sound", "reference"] = "sound",
    ):
        """`question` has `{instruction}` where the user's words belong; pictures become `size` pixels wide.

        A sequence is at most `max_length` tokens long: the expressive text is shortened, never the visual tokens. `reference`
        cuts from the right instead, and resizes pictures twice, as the original program does.
        """
        self.processor = processor
        self.question = question
        self.visual_tokens = visual_tokens
        self.size = size
        self.max_length = max_length
        self.compat = compat
        self.pad_id: int = processor.tokenizer.pad_id
        self._first_visual_id = processor.tokenizer.id_of(_first(visual_tokens))

    def __call__(self, pair: EditPair) -> Example:
        """Raises DataError, naming the pair, where it cannot become an example."""
        ids, labels = self._speech(pair)
        if self.compat == "reference":
            ids, labels = ids[: self.max_length], labels[: self.max_length]
        else:
            ids, labels = self._shorten(ids, labels, pair)
        spoken = [index for index, label in enumerate(labels) if label == self._first_visual_id]
        # Without visual tokens (reference only) the states lie at the end of the padded batch, which `collate` knows.
        first = spoken[0] if spoken else 2 * len(ids)

        target = self.picture(pair.target, name=f"target of {pair.key}")
        has_source = pair.source is not None
        source = self.picture(pair.source, name=f"source of {pair.key}") if pair.source is not None else None
        pixels = to_pixels(self.fit(target))
        return Example(
            input_ids=torch.tensor(ids),
            labels=torch.tensor(labels),
            read_at=torch.tensor(read_positions(first, self.visual_tokens)),
            looks=self.looks(source),
            source=torch.zeros_like(pixels) if source is None else to_pixels(self.fit(source)),
            has_source=has_source,
            target=pixels,
            key=pair.key,
        )

    def ask(self, image: Image.Image | None, instruction: str) -> list[int]:
        """The prompt for inference: everything up to where the model begins to speak."""
        return list(
            self.processor.encode(self._question(instruction), None, images=int(image is not None)).input_ids
        )

    def looks(self, image: Image.Image | None) -> Float[Tensor, "m 3 s s"]:
        """What CLIP sees of a picture that `picture` returned; nothing of None."""
        if image is None:
            side = self.processor.config.size
            return torch.zeros(0, 3, side, side)
        return self.processor.looks(image)[None]

    def picture(self, data: bytes, *, name: str) -> Image.Image:
        """Decode once, to the centre square from which both the looks and the pixels are made."""
        return self.crop(decode(data, name=name))

    def crop(self, image: Image.Image) -> Image.Image:
        """The centre square of a picture: at the size it came with, or at the reference's."""
        return square(image, REFERENCE_SIDE if self.compat == "reference" else min(image.size))

    def fit(self, image: Image.Image) -> Image.Image:
        """The square at the size that the codec sees."""
        return square(image, self.size)

    def _question(self, instruction: str) -> str:
        return self.question.replace("{instruction}", instruction)

    def _speech(self, pair: EditPair) -> tuple[list[int], list[int]]:
        answer = with_visual_tokens(pair.expressive, self.visual_tokens)
        try:
            encoded = self.processor.encode(
                self._question(pair.instruction), answer, images=int(pair.source is not None)
            )
        except LlavaError as error:
            raise DataError(f"pair {pair.key}: {error}") from error
        return list(encoded.input_ids), list(encoded.labels)

    def _shorten(self, ids: list[int], labels: list[int], pair: EditPair) -> tuple[list[int], list[int]]:
        """Take tokens from the end of the expressive text until the sequence fits."""
        begin = next((index for index, label in enumerate(labels) if label >= 0), len(ids))
        end = next((index for index, label in enumerate(labels) if label == self._first_visual_id), begin)
        cut = max(len(ids) - self.max_length, 0)
        if begin == len(ids) or end - begin < cut:
            raise DataError(
                f"pair {pair.key}: the instruction takes {len(ids) - (end - begin)} tokens with its prompt and the visual "
                f"tokens, but at most {self.max_length} are allowed; shorten it or raise data.max_length."
            )
        return ids[: end - cut] + ids[end:], labels[: end - cut] + labels[end:]


def _first(count: int) -> str:
    return visual_tokens(count)[0]
