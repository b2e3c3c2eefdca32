"""Words and pictures as an encoder reads them: conversations, or questions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from llava_patch.processor import Processor
from mgie.errors import DataError, WeightsError
from mgie.tokens import read_positions, visual_tokens, with_visual_tokens
from mgie.types import Asked, Looks, Size

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
            input_ids=torch.tensor(rows, dtype=torch.long), mask=mask, clip_pixels=pictures, extras=extras
        )

    def text(self, ids: Sequence[int], *, literal: bool = False) -> str:
        """What was said in words; `literal`: special tokens too. Empty of an encoder that is mute."""
        del ids, literal
        return ""


class LlavaPrompts(AbstractPrompts):
    """LLaVA's conversations, with visual tokens at the end of the answer."""

    def __init__(self, processor: Processor, *, question: str, count: int, compat: Compat = "default"):
        """`question` has `{instruction}` for the user's words; an answer ends in `count` visual tokens.

        `reference` cuts from the right and counts labels as the original program does. Raises WeightsError
        where the tokenizer lacks the tokens.
        """
        self.processor = processor
        self.template = question
        self.count = count
        self.compat = compat
        self.pad_id = processor.tokenizer.pad_id
        self.edge = processor.clip_image.edge
        self.visual_ids = visual_ids(processor, count)

    def conversation(
        self, instruction: str, expressive: str, *, sizes: Sequence[Size], max_length: int
    ) -> Conversation:
        """The expressive text is shortened to fit, never the visual tokens."""
        reference = self.compat == "reference"
        encoded = self.processor.encode(
            self._asked(instruction),
            with_visual_tokens(expressive, self.count),
            images=len(sizes),
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
        return Conversation(input_ids=ids, labels=labels, read_at=list(read_positions(first, self.count)))

    def question(self, instruction: str, *, sizes: Sequence[Size]) -> Conversation:
        """The prompt of inference. Raises DataError."""
        encoded = self.processor.encode(self._asked(instruction), images=len(sizes))
        return Conversation(input_ids=encoded.input_ids)

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

    def _asked(self, instruction: str) -> str:
        return self.template.replace("{instruction}", instruction)


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


def visual_ids(processor: Processor, count: int) -> tuple[int, ...]:
    """Ids of the visual tokens in this tokenizer. Raises WeightsError where it lacks them."""
    if count > len(processor.tokenizer):
        raise WeightsError(
            f"there are to be {count} visual tokens, but the tokenizer has {len(processor.tokenizer)} tokens "
            "in all: use parts that were trained together."
        )
    return tuple(processor.tokenizer.id_of(name) for name in visual_tokens(count))
