"""Words and pictures as an encoder reads them: conversations, or questions."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_patch.processor import Processor
from llava_patch.tokens import IM_PATCH
from mgie.errors import DataError, WeightsError
from mgie.instructions import Templates, check_counts, introduced, parse, task_of, with_source
from mgie.tokens import read_positions, visual_tokens, with_visual_tokens
from mgie.types import Asked, Looks, Pictures, Size

log = logging.getLogger(__name__)
PHOTO = "the picture"
"""What a question calls the photo that stands behind it."""
SAID = "said"
"""Among the extras: the words that a text encoder teaches by."""
Compat = Literal["default", "reference"]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What is asked and answered, in tokens."""

    input_ids: list[int]
    labels: list[int] = field(default_factory=list)
    """The ids to be predicted, IGNORE elsewhere; not shifted. None of a question."""
    read_at: list[int] = field(default_factory=list)
    """Positions whose states become the visual tokens. None of a question."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the encoder needs to know of it, for `together`: grids of patches, positions."""
    placed: Sequence[tuple[int | None, int]] = ()
    """Pictures inside the instruction, and the first of each one's positions: numbers of those that came with
    it, None for the photo."""


class AbstractPrompts(ABC):
    """What one encoder's words and pictures look like in tensors. It goes with the encoder everywhere."""

    pad_id: int = 0
    reads_pictures: bool = False
    """Whether instructions may contain pictures."""
    edge: int = 0
    """Side that the vision tower's pictures are brought to first; 0 without a tower."""

    @abstractmethod
    def conversation(
        self, instruction: str, expressive: str, *, sizes: Sequence[Size], max_length: int
    ) -> Conversation:
        """An instruction about pictures of these sizes with its answer, at most `max_length` tokens long.

        The sizes are those of what `clip_pixels` gets. Raises UserError where it cannot be.
        """

    @abstractmethod
    def question(self, instruction: str, *, sizes: Sequence[Size]) -> Conversation:
        """The same up to where the model begins to answer. Raises DataError."""

    def together(
        self, extras: Sequence[Mapping[str, Tensor]], mask: Bool[Tensor, "b t"]
    ) -> Mapping[str, Tensor]:
        """The extras of conversations as those of a batch, False in `mask` on padding; by default none."""
        del extras, mask
        return {}

    def clip_pixels(self, image: Image.Image | None) -> Looks:
        """What the vision tower sees of a picture; nothing of None, or without a tower."""
        del image
        return torch.zeros(0, 3, 1, 1)

    def shown(self, instruction: str, *, photo: bool) -> tuple[int | None, ...]:
        """What the vision tower is shown, in its order: numbers of the pictures in an instruction, None for
        the photo, where there is one."""
        del instruction
        return (None,) if photo else ()

    @property
    def vision_facts(self) -> dict[str, str]:
        """What `clip_pixels` depends on."""
        return {}

    def asked(self, questions: Sequence[Conversation], clip_pixels: Sequence[Tensor]) -> Asked:
        """Questions side by side, padded on the left, with their pictures."""
        told = [question.input_ids for question in questions]
        longest = max(map(len, told))
        rows = [[self.pad_id] * (longest - len(ids)) + ids for ids in told]
        mask = torch.tensor([[False] * (longest - len(ids)) + [True] * len(ids) for ids in told])
        extras = self.together([question.extras for question in questions], mask)
        pictures = torch.cat(list(clip_pixels))
        return Asked(
            input_ids=torch.tensor(rows, dtype=torch.long), mask=mask, clip_pixels=pictures, extras=extras,
            pictures=placed_at(questions, offsets=[longest - len(ids) for ids in told]),
        )  # fmt: skip

    def text(self, ids: Sequence[int], *, literal: bool = False) -> str:
        """What was said in words; `literal`: special tokens too. Empty of an encoder that is mute."""
        del ids, literal
        return ""


class LlavaPrompts(AbstractPrompts):
    """LLaVA's conversations, with visual tokens at the end of the answer."""

    def __init__(
        self,
        processor: Processor,
        *,
        question: str,
        count: int,
        compat: Compat = "default",
        references: bool = False,
    ):
        """`question` has `{instruction}` for the user's words; an answer ends in `count` visual tokens. With
        `references`, instructions may contain pictures.

        `reference` cuts from the right and counts labels as the original program does. Raises WeightsError
        where the tokenizer lacks the tokens.
        """
        self.processor = processor
        self.template = question
        self.count = count
        self.compat = compat
        self.reads_pictures = references
        self.pad_id = processor.tokenizer.pad_id
        self.edge = processor.clip_image.edge
        self.visual_ids = visual_ids(processor, count)

    def conversation(
        self, instruction: str, expressive: str, *, sizes: Sequence[Size], max_length: int
    ) -> Conversation:
        """The expressive text is shortened to fit, never the visual tokens."""
        reference = self.compat == "reference"
        asked, inside, images = self._asked(instruction, sizes)
        encoded = self.processor.encode(
            asked,
            with_visual_tokens(expressive, self.count),
            images=images,
            inside=inside,
            max_length=max_length,
            truncate="right" if reference else "text",
        )
        ids, labels, known = encoded.input_ids, encoded.labels, list(self.visual_ids)
        if not reference and [label for label in labels if label in known] != known:
            raise DataError(
                f"the answer does not end in {self.count} visual tokens; its expressive text must not hold "
                "any."
            )
        # Without visual tokens (reference only) the states lie at the end of the padded batch, which
        # `collate` knows; no batch is longer than this.
        first = labels.index(known[0]) if known[0] in labels else max_length
        read_at = list(read_positions(first, self.count))
        return Conversation(input_ids=ids, labels=labels, read_at=read_at, placed=self._placed(ids, inside))

    def question(self, instruction: str, *, sizes: Sequence[Size]) -> Conversation:
        """The prompt of inference. Raises DataError."""
        asked, inside, images = self._asked(instruction, sizes)
        ids = self.processor.encode(asked, images=images, inside=inside).input_ids
        return Conversation(input_ids=ids, placed=self._placed(ids, inside))

    def shown(self, instruction: str, *, photo: bool) -> tuple[int | None, ...]:
        """The pictures inside the question, then the photo behind it."""
        parts = parse(instruction).parts if self.reads_pictures else ()
        inside = tuple(part for part in parts if isinstance(part, int))
        return (*inside, None) if photo else inside

    def clip_pixels(self, image: Image.Image | None) -> Looks:
        """What CLIP sees of a picture; nothing of None."""
        size = self.processor.clip_image.size
        if image is None:
            return torch.zeros(0, 3, size, size)
        return self.processor.clip_pixels(image)[None]

    @property
    def vision_facts(self) -> dict[str, str]:
        """CLIP's preprocessing."""
        return {"clip_image": repr(self.processor.clip_image)}

    def text(self, ids: Sequence[int], *, literal: bool = False) -> str:
        """What was said; `literal`: special tokens too."""
        return self.processor.tokenizer.decode(list(ids), skip_special=not literal)

    def _asked(self, instruction: str, sizes: Sequence[Size]) -> tuple[str, int, int]:
        """The question, how many pictures are inside it, and how many stand behind it."""
        if not self.reads_pictures:
            return self.template.replace("{instruction}", instruction), 0, len(sizes)
        parts = parse(instruction).parts
        inside = sum(isinstance(part, int) for part in parts)
        photo = len(sizes) > inside
        check_counts(instruction, pictures=len(sizes) - photo, photo=photo)
        if not inside and None not in parts:
            return self.template.replace("{instruction}", instruction), 0, len(sizes)
        # The photo stands behind the question, whatever it is called in it.
        words = {int: self.processor.placeholder, type(None): PHOTO}
        asked = " ".join(part if isinstance(part, str) else words[type(part)] for part in parts)
        return self.template.replace("{instruction}", asked), inside, int(photo)

    def _placed(self, ids: Sequence[int], inside: int) -> list[tuple[int | None, int]]:
        """Where the pictures inside the question begin."""
        if not inside:
            return []
        patch = self.processor.tokenizer.id_of(IM_PATCH)
        first = [at for at, held in enumerate(ids) if held == patch][:: self.processor.patches]
        return [(number, at) for number, at in enumerate(first[:inside])]


class WordsPrompts(AbstractPrompts):
    """Words alone, in the tokens of a text encoder, which puts its marks around them itself."""

    def __init__(self, tokenizer: Any, *, most: int):
        """`tokenizer` is one of transformers'; a text may have `most` tokens."""
        self.tokenizer = tokenizer
        self.most = most
        self.pad_id = tokenizer.eos_token_id

    def conversation(
        self, instruction: str, expressive: str, *, sizes: Sequence[Size], max_length: int
    ) -> Conversation:
        """The instruction is read, as in use, when nobody has said yet what the result looks like."""
        del expressive, sizes
        ids = self.ids(instruction, most=min(self.most, max_length))
        return Conversation(input_ids=ids, labels=list(ids))

    def question(self, instruction: str, *, sizes: Sequence[Size]) -> Conversation:
        """The words. Raises DataError."""
        del sizes
        return Conversation(input_ids=self.ids(instruction))

    def ids(self, text: str, *, most: int | None = None) -> list[int]:
        """The tokens of a text. Raises DataError for more than are read."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > (most := self.most if most is None else most):
            raise DataError(
                f"{text[:60]!r} ... has {len(ids)} tokens, and the text encoder reads {most}: say it in "
                "fewer words."
            )
        return ids


class MigePrompts(AbstractPrompts):
    """MIGE's: each stretch of words in T5's tokens, so many places for each picture between them, and the
    token that ends a text (Tian et al. 2025, section 3.1)."""

    reads_pictures = True

    def __init__(
        self,
        tokenizer: Any,
        *,
        queries: int,
        most: int,
        edge: int,
        mean: Sequence[float],
        std: Sequence[float],
        templates: Templates = "train",
        strict: bool = False,
    ):
        """`tokenizer` is one of transformers'; a picture takes `queries` of `most` places, and the tower sees
        squares of side `edge` with this mean and deviation. `strict` cuts what is too long where it ends, as
        the original does, pictures too; else words are cut."""
        self.tokenizer, self.queries, self.most, self.edge = tokenizer, queries, most, edge
        self.mean, self.std = tuple(mean), tuple(std)
        self.templates: Templates = templates
        self.strict = strict
        self.taught = False
        self.pad_id, self.end_id = tokenizer.pad_token_id, tokenizer.eos_token_id

    def conversation(
        self, instruction: str, expressive: str, *, sizes: Sequence[Size], max_length: int
    ) -> Conversation:
        """What is asked; nothing is answered, but a text encoder may teach by the answer."""
        told = self._told(instruction, sizes, most=min(self.most, max_length))
        extras = {}
        if self.taught:
            extras = {SAID: torch.tensor(self.tokenizer.encode(expressive, add_special_tokens=False))}
        ids = told.input_ids
        return Conversation(input_ids=ids, labels=list(ids), placed=told.placed, extras=extras)

    def together(
        self, extras: Sequence[Mapping[str, Tensor]], mask: Bool[Tensor, "b t"]
    ) -> Mapping[str, Tensor]:
        """The answers' words, and -1 behind the last."""
        del mask
        said = [each[SAID].long() for each in extras if SAID in each]
        return {SAID: pad_sequence(said, batch_first=True, padding_value=-1)} if said else {}

    def question(self, instruction: str, *, sizes: Sequence[Size]) -> Conversation:
        """The same. Raises DataError where words and pictures do not go together."""
        return self._told(instruction, sizes, most=self.most)

    def shown(self, instruction: str, *, photo: bool) -> tuple[int | None, ...]:
        """The pictures in the order of the words; the photo, which an edit is of, is among them."""
        text = with_source(instruction) if photo else instruction
        return tuple(part for part in parse(text).parts if not isinstance(part, str))

    def asked(self, questions: Sequence[Conversation], clip_pixels: Sequence[Tensor]) -> Asked:
        """Questions side by side, padded on the right to as many places as there are."""
        ids = torch.full((len(questions), self.most), self.pad_id)
        for row, question in enumerate(questions):
            ids[row, : len(question.input_ids)] = torch.tensor(question.input_ids, dtype=torch.long)
        lengths = torch.tensor([len(question.input_ids) for question in questions])
        return Asked(
            input_ids=ids, mask=torch.arange(self.most) < lengths[:, None],
            clip_pixels=torch.cat(list(clip_pixels)), pictures=placed_at(questions),
        )  # fmt: skip

    def clip_pixels(self, image: Image.Image | None) -> Looks:
        """A picture, squeezed into the tower's square; nothing of None."""
        if image is None:
            return torch.zeros(0, 3, self.edge, self.edge)
        square = image.convert("RGB").resize((self.edge, self.edge), Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1)[None]
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (values - mean) / std

    @property
    def vision_facts(self) -> dict[str, str]:
        """The square and its normalisation."""
        return {"clip_image": repr((self.edge, self.mean, self.std))}

    def _told(self, instruction: str, sizes: Sequence[Size], *, most: int) -> Conversation:
        images = sum(isinstance(part, int) for part in parse(instruction).parts)
        photo = len(sizes) > images
        asked = check_counts(instruction, pictures=len(sizes) - photo, photo=photo)
        whole = with_source(instruction) if photo else instruction
        parts = parse(introduced(whole, task_of(asked, photo=photo), self.templates)).parts
        # Cleaning cuts words, and what stands behind them with them.
        if sum(not isinstance(part, str) for part in parts) < len(sizes) and not self.strict:
            raise DataError(
                f"{instruction[:60]!r} ... has too many words before its last picture: say it in fewer words."
            )
        segments = [
            self.tokenizer.encode(part, add_special_tokens=False) if isinstance(part, str) else part
            for part in parts
        ]
        return self.mixed(segments, most=most)

    def mixed(self, segments: Sequence[list[int] | int | None], *, most: int) -> Conversation:
        """Words in tokens, and pictures, as the ids of a prompt; the places of pictures hold the token that
        pads. Raises DataError where the pictures alone are too long."""
        words = sum(len(part) for part in segments if isinstance(part, list))
        pictures = sum(not isinstance(part, list) for part in segments)
        over = words + self.queries * pictures + 1 - most
        if over > words and not self.strict:
            raise DataError(
                f"{pictures} pictures take {self.queries * pictures} places of {most}: expected fewer; leave "
                "some out."
            )
        if over > 0:
            log.warning(f"an instruction is {over} tokens too long and was cut: say it in fewer words.")
        left = words if self.strict else words - max(over, 0)
        ids, placed = [], []
        for part in segments:
            if isinstance(part, list):
                ids += part[:left]
                left -= min(len(part), left)
            else:
                placed.append((part, len(ids)))
                ids += [self.pad_id] * self.queries
        ids = [*ids, self.end_id][:most]
        return Conversation(input_ids=ids, placed=[each for each in placed if each[1] < len(ids)])


def placed_at(told: Sequence[Conversation], *, offsets: Sequence[int] | None = None) -> Pictures | None:
    """Where pictures are in rows that begin so many positions later; None without any."""
    offsets = offsets or [0] * len(told)
    at = [(row, first + by) for row, (each, by) in enumerate(zip(told, offsets)) for _, first in each.placed]
    return Pictures(at=torch.tensor(at)) if at else None


def visual_ids(processor: Processor, count: int) -> tuple[int, ...]:
    """Ids of the visual tokens in this tokenizer. Raises WeightsError where it lacks them."""
    if count > len(processor.tokenizer):
        raise WeightsError(
            f"there are to be {count} visual tokens, but the tokenizer has {len(processor.tokenizer)} tokens "
            "in all: use parts that were trained together."
        )
    return tuple(processor.tokenizer.id_of(name) for name in visual_tokens(count))
