"""What a stage of the small base sees of a pair: all of it, a crop, or a lesson in words."""

import zlib
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageChops
from torch import Tensor

from llava_patch.processor import Processor
from mgie.config import RunConfig
from mgie.data.images import decode, square, to_pixels
from mgie.tokens import IGNORE
from mgie.toy.pairs import DESCRIBE
from mgie.toy.things import STEP
from mgie.toy.world import Scene
from mgie.types import EditPair, Example


class BaseExamples:
    """Pictures and words as the recipe `tiny` makes them, but without visual tokens.

    Without `processor`, there are no words at all.
    """

    pad_id = 0

    def __init__(self, run: RunConfig, processor: Processor | None):
        self.run, self.processor = run, processor

    def __call__(self, pair: EditPair, rng: object = None, features: object = None) -> Example:
        """One pair as the stages see it; nothing is drawn, and nothing stored."""
        del rng, features
        after, before = decode(pair.target, name=pair.key), None
        if pair.source is not None:
            before = decode(pair.source, name=pair.key)
        before, after = self.seen(before, after)
        target = to_pixels(square(after, self.run.data.size))
        source = torch.zeros_like(target)
        if before is not None:
            source = to_pixels(square(before, self.run.data.size))
        ids, labels, clip_pixels = [0], [IGNORE], torch.zeros(0, 3, 1, 1)
        if self.processor is not None:
            asked, answer = self.words(pair)
            question = self.run.model.encoder.question.replace("{instruction}", asked)
            images, most = int(before is not None), self.run.data.max_length
            encoded = self.processor.encode(question, answer, images=images, max_length=most)
            ids, labels = encoded.input_ids, encoded.labels
            size = self.processor.clip_image.size
            clip_pixels = torch.zeros(0, 3, size, size)
            if before is not None:
                clip_pixels = self.processor.clip_pixels(before)[None]
        return Example(
            input_ids=torch.tensor(ids), labels=torch.tensor(labels), clip_pixels=clip_pixels, source=source,
            read_at=torch.zeros(0, dtype=torch.long), has_source=before is not None, target=target,
            key=pair.key,
        )  # fmt: skip

    def together(self, extras: Sequence[Mapping[str, Tensor]], mask: object) -> dict[str, Tensor]:
        """Nothing: LLaVA needs no more than ids."""
        del extras, mask
        return {}

    def words(self, pair: EditPair) -> tuple[str, str]:
        """What is asked, and what shall be said."""
        return pair.instruction, pair.expressive

    def seen(self, before: Image.Image | None, after: Image.Image) -> tuple[Image.Image | None, Image.Image]:
        """What is shown of the two pictures: all of them."""
        return before, after


class Crops(BaseExamples):
    """Squares around what changes, as near to its middle as the grid of places allows: of a picture that is
    painted from nothing, around its middle."""

    def seen(self, before: Image.Image | None, after: Image.Image) -> tuple[Image.Image | None, Image.Image]:
        """Both pictures in that square."""
        box = (before and ImageChops.difference(before, after).getbbox()) or (0, 0, *after.size)
        side, first = self.run.data.size, []
        for start, end, whole in zip(box[:2], box[2:], after.size):
            middle = round((start + end) / 2 / STEP) * STEP
            first.append(min(max(middle - side // 2, 0), whole - side))
        crop = (*first, first[0] + side, first[1] + side)
        return before and before.crop(crop), after.crop(crop)


class Lessons(BaseExamples):
    """Lessons for a language model: every second answer is said twice, so that it learns to look back at it.

    With `describe`, half of the scenes are described instead, as LLaVA learnt to see from captions.
    """

    def __init__(self, run: RunConfig, processor: Processor, *, describe: bool):
        super().__init__(run, processor)
        self.describe = describe

    def words(self, pair: EditPair) -> tuple[str, str]:
        """The lesson that belongs to this pair, whenever it comes."""
        lesson = zlib.crc32(pair.key.encode()) % 4
        if self.describe and lesson > 1 and "before" in pair.meta:
            return DESCRIBE, str(Scene.from_json(pair.meta["before"]))
        return pair.instruction, f"{pair.expressive} {pair.expressive}" if lesson % 2 else pair.expressive
