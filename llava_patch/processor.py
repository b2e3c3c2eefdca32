"""Words and pictures -> ids, labels and CLIP pixels. The only place where text becomes tensors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_patch.config import LlavaConfig, resolve_tower
from llava_patch.conversation import Conversation, template
from llava_patch.errors import ConfigError, DataError
from llava_patch.tokenizer import LlavaTokenizer, read_json
from llava_patch.tokens import IGNORE, IM_PATCH, image_block

CLIP_IMAGE_FILE = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipImageConfig:
    """How CLIP looks at a picture: shortest edge to `edge`, centre square of `size`, [0, 1], normalised."""

    size: int
    """Side of the square that the tower takes."""
    edge: int
    """Length to which the picture's shortest edge is resized first."""
    mean: tuple[float, ...]
    """Of each channel."""
    std: tuple[float, ...]
    resample: int
    """Pillow's number of the resizing filter; CLIP was trained with bicubic, 3."""

    @classmethod
    def clip(cls, size: int) -> "ClipImageConfig":
        """As every published CLIP, for a tower of side `size`."""
        published = CLIPImageProcessorPil
        return cls(
            size=size,
            edge=size,
            mean=tuple(published.image_mean),
            std=tuple(published.image_std),
            resample=int(published.resample),
        )

    @classmethod
    def from_published(cls, content: dict) -> "ClipImageConfig":
        """From the content of a CLIP folder's `preprocessor_config.json`, old or new."""
        edge, crop = content.get("size"), content.get("crop_size")
        edge = edge.get("shortest_edge") if isinstance(edge, dict) else edge
        crop = crop.get("height") if isinstance(crop, dict) else crop
        if not (isinstance(edge, int) and isinstance(crop, int) and 0 < crop <= edge <= 16 * crop):
            raise ConfigError(
                f"{CLIP_IMAGE_FILE} has size {content.get('size')} and crop_size {content.get('crop_size')}, "
                "expected a shortest edge and a square inside it; use the file of a CLIP folder."
            )
        try:
            return cls(
                size=crop,
                edge=edge,
                mean=tuple(content["image_mean"]),
                std=tuple(content["image_std"]),
                resample=int(content.get("resample", CLIPImageProcessorPil.resample)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{CLIP_IMAGE_FILE} does not say how pictures are normalised ({type(error).__name__}: "
                f"{error}); use the file of a CLIP folder."
            ) from error

    def to_published(self) -> dict:
        """The content of a CLIP folder's `preprocessor_config.json`."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.edge},
            "resample": self.resample,
            "do_center_crop": True,
            "crop_size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """One conversation as ids."""

    input_ids: list[int]
    labels: list[int]
    """The ids of the answer and its </s>; IGNORE elsewhere. Not shifted."""
    dropped: int = 0
    """How many tokens were cut to keep to the greatest length."""


class Processor:
    """Prompt, ids, labels and CLIP pixels for one model."""

    def __init__(
        self,
        tokenizer: LlavaTokenizer,
        clip_image: ClipImageConfig,
        patches: int,
        template: str | Conversation,
        use_im_start_end: bool,
    ) -> None:
        """`patches` is the number of features per picture, `template` a name of TEMPLATES or one's own."""
        self.tokenizer = tokenizer
        self.clip_image = clip_image
        self.patches = patches
        self.conversation = _conversation(template)
        self.use_im_start_end = use_im_start_end
        self._clip = CLIPImageProcessorPil(
            **{k: v for k, v in clip_image.to_published().items() if k != "image_processor_type"}
        )

    def prompt(self, question: str, answer: str | None = None, images: int = 1) -> str:
        """The conversation's text; the pictures' placeholders stand on their own line after the question."""
        return self._render(question, answer, images).text

    def encode(
        self,
        question: str,
        answer: str | None = None,
        *,
        images: int = 1,
        inside: int = 0,
        max_length: int | None = None,
        truncate: Literal["text", "right"] = "text",
    ) -> Encoded:
        """Ids of the conversation, and labels on the answer. `inside` is how many pictures' placeholders the
        question has already, as `placeholder` writes them; the other `images` stand behind it.

        What is longer than `max_length` is cut. "text" takes words from the answer's end, never the added
        tokens and </s> that close it. "right" cuts the whole from the right and counts the labels as the
        reference does: what it cannot count (</s> in the question, <unk> anywhere) has no labels at all.
        """
        rendered = self._render(question, answer, images)
        bounds = rendered.answers[-1] if rendered.answers else (len(rendered.text),) * 2
        ids, (start, end) = self.tokenizer.encode_with_bounds(rendered.text, bounds)
        self._check_images(ids, images + inside)
        labels = [IGNORE] * start + ids[start:end] + [IGNORE] * (len(ids) - end)
        if truncate == "right":
            limit = max_length or len(ids)
            labels = self._counted_labels(rendered.text, ids, limit) if answer is not None else labels
            return Encoded(input_ids=ids[:limit], labels=labels[:limit], dropped=max(len(ids) - limit, 0))
        excess = 0 if max_length is None else max(len(ids) - max_length, 0)
        if not excess:
            return Encoded(input_ids=ids, labels=labels)
        tail = self._closing(ids, start)
        if tail - start < excess:
            raise DataError(
                f"the prompt needs {start} tokens and the answer's closing tokens {len(ids) - tail}, "
                f"together more than max_length={max_length}; raise max_length or shorten the instruction "
                f"{question[:60]!r}."
            )
        keep = slice(tail - excess, tail)
        del ids[keep], labels[keep]
        return Encoded(input_ids=ids, labels=labels, dropped=excess)

    def clip_pixels(self, image: Image.Image) -> Float[Tensor, "3 s s"]:
        """CLIP's view of a picture of any size."""
        return self._clip(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def pad(
        self, rows: Sequence[Sequence[int] | Int[Tensor, " _"]], side: Literal["left", "right"] = "right"
    ) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """Rows of ids side by side, and a mask that is True where there is a token."""
        if not rows:
            raise DataError("there are no rows to pad, expected at least one.")
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_id, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
            ids[index, place] = torch.as_tensor(row, dtype=torch.long)
            mask[index, place] = True
        return ids, mask

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and the preprocessing into a LLaVA folder; the rest is in its config.json."""
        self.tokenizer.save_pretrained(folder)
        content = self.clip_image.to_published() | {"conversation": self.conversation.name}
        (Path(folder) / CLIP_IMAGE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, template: str | None = None) -> "Processor":
        """Read a LLaVA folder. Without `template`: the one it was saved with, or else vicuna_v1_1."""
        config = LlavaConfig.from_pretrained(folder)
        content: dict = {}
        for place in (Path(folder), resolve_tower(folder, config.vision_tower)):
            if not content and (place / CLIP_IMAGE_FILE).is_file():
                content = read_json(place / CLIP_IMAGE_FILE)
        size = config.image_size
        clip_image = ClipImageConfig.from_published(content) if content else ClipImageConfig.clip(size)
        if clip_image.size != size:
            raise ConfigError(
                f"{CLIP_IMAGE_FILE} makes pictures of {clip_image.size} px, the vision tower takes {size}; "
                "use the file of the tower's own folder."
            )
        return cls(
            LlavaTokenizer.from_pretrained(folder),
            clip_image,
            config.patches,
            template or content.get("conversation", "vicuna_v1_1"),
            config.use_im_start_end,
        )

    @property
    def placeholder(self) -> str:
        """What stands for a picture in a question."""
        return image_block(self.patches, use_im_start_end=self.use_im_start_end)

    def _render(self, question: str, answer: str | None, images: int):
        block = self.placeholder
        return self.conversation.render([(question + ("\n" + block * images if images else ""), answer)])

    def _check_images(self, ids: list[int], images: int) -> None:
        found = ids.count(self.tokenizer.id_of(IM_PATCH)) if images or IM_PATCH in self.tokenizer.added else 0
        if found != images * self.patches:
            raise DataError(
                f"the conversation has {found} {IM_PATCH} tokens, expected {images} x {self.patches} for "
                "its pictures; "
                "remove image tokens from the question and the answer."
            )

    def _closing(self, ids: list[int], start: int) -> int:
        """Where the added tokens and </s> at the end of the answer begin."""
        closing = {*self.tokenizer.added.values(), self.tokenizer.eos_id}
        tail = len(ids)
        while tail > start and ids[tail - 1] in closing:
            tail -= 1
        return tail

    def _counted_labels(self, text: str, ids: list[int], limit: int) -> list[int]:
        """Labels by the reference's counting (rounds split at </s>, then at the assistant's name)."""
        spoken = self.conversation.roles[1] + " "
        labels, counted = list(ids[:limit]), 1
        labels[:counted] = [IGNORE] * counted
        for words in text.split(self.conversation.separators[1]):
            parts = words.split(self.conversation.separators[0] + spoken)
            if len(parts) != 2:
                break
            # Less two: the <s> of every encoding, and the lone "▁" of the space after the assistant's name.
            asked = len(self.tokenizer.encode(parts[0] + self.conversation.separators[0] + spoken)) - 2
            labels[counted : counted + asked] = [IGNORE] * len(labels[counted : counted + asked])
            counted += len(self.tokenizer.encode(words))
        labels[counted:] = [IGNORE] * len(labels[counted:])
        present = sum(index != self.tokenizer.pad_id for index in ids[:limit])
        return [IGNORE] * len(labels) if counted < limit and counted != present else labels


def _conversation(choice: str | Conversation) -> Conversation:
    return template(choice) if isinstance(choice, str) else choice
