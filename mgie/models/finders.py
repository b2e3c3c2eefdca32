"""Where in a picture a thing is that words name: detectors and segmenters in local folders.

OWLv2 (Minderer et al. 2023) and Grounding DINO (Liu et al. 2023) find boxes of a phrase, SAM (Kirillov et al.
2023) the mask of what is in a box, CLIPSeg (Lüddecke and Ecker 2022) the mask of a phrase. All are
transformers' classes and processors; nothing is fetched. Pictures are RGB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mgie.errors import ConfigError, DataError, DeviceError, WeightsError
from mgie.models.local import kind_of, loaded, model_folder, read
from mgie.types import Box

THRESHOLD = 0.25
"""What a detection scores at least. (Grounding DINO, and MIGC's data)"""
OWL_THRESHOLD = 0.2
"""The same of OWLv2, whose scores are lower. (MuDI, Jang et al. 2024)"""
OVERLAP = 0.8
"""Intersection over union above which two detections are one."""
LIKELY = 0.5
"""Probability from which on a pixel belongs to a phrase. (CLIPSeg)"""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Where a detector has found something."""

    box: Box
    score: float
    """In [0, 1]."""


Detector = Callable[[Image.Image, str], Sequence[Detection]]
"""A picture and a phrase -> all places where it may be."""
Segmenter = Callable[[Image.Image, Box], Image.Image]
"""A picture and a box -> the mask of what is in it, white inside, of the picture's size."""
PhraseSegmenter = Callable[[Image.Image, str], Image.Image]
"""A picture and a phrase -> the mask of all that it names; black where there is nothing of it."""


def sure_ones(
    found: Sequence[Detection], overlap: float = OVERLAP, *, threshold: float = THRESHOLD
) -> list[Detection]:
    """Those that score `threshold`, and of any that overlap by more the surest; the surest first.

    (Non-maximum suppression.)
    """
    kept: list[Detection] = []
    for each in sorted(found, key=lambda each: -each.score):
        apart = all(intersection_over_union(each.box, other.box) <= overlap for other in kept)
        if each.score >= threshold and apart:
            kept.append(each)
    return kept


def intersection_over_union(one: Box, other: Box) -> float:
    """Of two boxes in the same units, whose sides are continuous; 0 where both are empty."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - common
    return common / both if both > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Finder:
    """A phrase becomes a mask: boxes by a detector, what is in them by a segmenter, as far as there are."""

    detect: Detector | None = None
    """None: `read` looks everywhere."""
    segment: Segmenter | None = None
    """None: whole boxes."""
    read: PhraseSegmenter | None = None
    """Reads phrases itself; beside a detector it counts only in the boxes."""

    def __call__(self, image: Image.Image, phrase: str, *, name: str = "the picture") -> Image.Image:
        """The mask of all that a phrase names, white inside, of the picture's size.

        Raises DataError, calling the picture `name`, where nothing is found, and for what is no phrase.
        """
        phrase = " ".join(phrase.split())
        if not phrase:
            raise DataError("the phrase is empty: expected what is to be found, such as the dog.")
        inside = np.ones((image.height, image.width), dtype=bool)
        if self.detect is not None:
            inside[:] = False
            # The detector has its own idea of what is sure.
            for each in sure_ones(self.detect(image, phrase), threshold=0.0):
                inside |= self._within(image, each.box)
        if self.read is not None:
            inside &= _white(self.read(image, phrase), image)
        if not inside.any():
            raise DataError(
                f"nothing in {name} was found that is {phrase!r}: expected at least one; use other words, or "
                "draw the mask."
            )
        return _picture(inside)

    def _within(self, image: Image.Image, box: Box) -> Bool[np.ndarray, "y x"]:
        if self.segment is not None:
            return _white(self.segment(image, box), image)
        left, top = int(box[0] * image.width), int(box[1] * image.height)
        inside = np.zeros((image.height, image.width), dtype=bool)
        inside[top : -int(-box[3] * image.height // 1), left : -int(-box[2] * image.width // 1)] = True
        return inside


class Owlv2:
    """A detector of phrases of up to 16 tokens. Its picture is padded to a square, at the right and below."""

    option, example = "detector", "google/owlv2-base-patch16-ensemble"

    def __init__(self, folder: Path, device: torch.device | str = "cpu", threshold: float = OWL_THRESHOLD):
        """`threshold`: what a detection scores at least. Raises WeightsError, DeviceError."""
        from transformers import Owlv2ForObjectDetection, Owlv2Processor

        if find_spec("scipy") is None:
            raise DeviceError(
                "Pictures for OWLv2 are prepared by the package scipy, which is not installed; run: pip "
                "install 'mgie[eval]'"
            )
        self.model = loaded(Owlv2ForObjectDetection, folder).to(device)
        self.processor = read(Owlv2Processor, folder)
        self.longest: int = self.model.config.text_config.max_position_embeddings
        self.threshold = threshold

    @torch.inference_mode()
    def __call__(self, image: Image.Image, phrase: str) -> list[Detection]:
        """All that scores the threshold, in boxes that are cut off at the picture's edges."""
        _check_length(self.processor.tokenizer, phrase, self.longest)
        given = self.processor(text=[[phrase]], images=image, return_tensors="pt").to(self.model.device)
        found = self.processor.post_process_grounded_object_detection(
            self.model(**given), threshold=self.threshold, target_sizes=[(image.height, image.width)]
        )[0]
        return _detections(found, image)


class GroundingDino:
    """A detector of phrases of up to 256 tokens."""

    option, example = "detector", "IDEA-Research/grounding-dino-tiny"

    def __init__(self, folder: Path, device: torch.device | str = "cpu", threshold: float = THRESHOLD):
        """`threshold`: what a detection scores at least. Raises WeightsError."""
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        self.model = loaded(GroundingDinoForObjectDetection, folder).to(device)
        self.processor = read(GroundingDinoProcessor, folder)
        self.longest: int = self.model.config.max_text_len
        self.threshold = threshold

    @torch.inference_mode()
    def __call__(self, image: Image.Image, phrase: str) -> list[Detection]:
        """All that scores the threshold, in boxes that are cut off at the picture's edges."""
        # A full stop ends a phrase; those within it would make several.
        asked = phrase.lower().replace(".", " ").strip() + "."
        _check_length(self.processor.tokenizer, asked, self.longest)
        given = self.processor(text=asked, images=image, return_tensors="pt").to(self.model.device)
        found = self.processor.post_process_grounded_object_detection(
            self.model(**given), input_ids=given["input_ids"], threshold=self.threshold,
            target_sizes=[(image.height, image.width)],
        )[0]  # fmt: skip
        return _detections(found, image)


class Sam:
    """A segmenter of what is in a box: of the masks that it offers, the one that it is surest of."""

    option, example = "segmenter", "facebook/sam-vit-huge"

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """Raises WeightsError."""
        from transformers import SamModel, SamProcessor

        self.model = loaded(SamModel, folder).to(device)
        self.processor = read(SamProcessor, folder)

    @torch.inference_mode()
    def __call__(self, image: Image.Image, box: Box) -> Image.Image:
        """The mask, white inside, of the picture's size."""
        sides = (image.width, image.height) * 2
        pixels = [[[side * part for side, part in zip(sides, box)]]]
        given = self.processor(image, input_boxes=pixels, return_tensors="pt")
        sizes = given.pop("original_sizes"), given.pop("reshaped_input_sizes")
        offered = self.model(**given.to(torch.float32).to(self.model.device), multimask_output=True)
        best = int(offered.iou_scores[0, 0].argmax())
        logits = offered.pred_masks[:, :, best : best + 1].cpu()
        mask = self.processor.image_processor.post_process_masks(logits, *sizes)[0]
        return _picture(mask[0, 0].numpy())


class ClipSeg:
    """A segmenter of phrases, which needs no box."""

    option, example = "segmenter", "CIDAS/clipseg-rd64-refined"

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """Raises WeightsError."""
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        self.model = loaded(CLIPSegForImageSegmentation, folder).to(device)
        self.processor = read(CLIPSegProcessor, folder)
        self.longest: int = self.model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def __call__(self, image: Image.Image, phrase: str) -> Image.Image:
        """The mask, white inside, of the picture's size."""
        _check_length(self.processor.tokenizer, phrase, self.longest)
        given = self.processor(text=[phrase], images=[image], return_tensors="pt").to(self.model.device)
        logits = self.model(**given).logits
        likely: Tensor = logits.reshape(1, 1, *logits.shape[-2:]).sigmoid()
        likely = F.interpolate(likely, (image.height, image.width), mode="bilinear", align_corners=False)
        return _picture((likely[0, 0] >= LIKELY).cpu().numpy())


KINDS: dict[str, dict[str, Any]] = {
    "detector": {"owlv2": Owlv2, "grounding-dino": GroundingDino},
    "segmenter": {"sam": Sam, "clipseg": ClipSeg},
}
"""By option and by what transformers calls the model."""


def check_finders(detector: str | Path | None, segmenter: str | Path | None) -> None:
    """Refuse, before any weight is read, what cannot find a phrase. Raises ConfigError and WeightsError."""
    of = {"detector": detector, "segmenter": segmenter}
    kinds = {option: _kind(option, folder) for option, folder in of.items() if folder is not None}
    if not kinds or (detector is None and kinds["segmenter"] is Sam):
        what = "no model that reads words" if not kinds else f"only {segmenter}, which needs boxes"
        raise ConfigError(
            f"a phrase is to be found, but there is {what}: give --detector FOLDER (OWLv2 or Grounding "
            "DINO), or --segmenter with a folder of CLIPSeg."
        )


def open_finder(
    detector: str | Path | None = None,
    segmenter: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Finder:
    """What the models in two local folders find together. Raises ConfigError, WeightsError, DeviceError."""
    check_finders(detector, segmenter)
    detect = None if detector is None else open_detector(detector, device=device)
    second = None if segmenter is None else _kind("segmenter", segmenter)(Path(segmenter), device)
    if isinstance(second, ClipSeg):
        return Finder(detect=detect, read=second)
    return Finder(detect=detect, segment=second)


def open_detector(folder: str | Path, *, device: torch.device | str = "cpu") -> Detector:
    """OWLv2 or Grounding DINO, as the folder says. Raises WeightsError and DeviceError."""
    return _kind("detector", folder)(Path(folder), device)


def open_segmenter(folder: str | Path, *, device: torch.device | str = "cpu") -> Segmenter:
    """SAM: CLIPSeg reads no boxes. Raises WeightsError."""
    kind = _kind("segmenter", folder)
    if kind is not Sam:
        raise WeightsError(
            f"{folder} is a model of the kind {kind_of(Path(folder))}, which reads no boxes: expected sam, "
            f"such as a download of {Sam.example}."
        )
    return Sam(Path(folder), device)


def _kind(option: str, folder: str | Path) -> Any:
    kinds = KINDS[option]
    path = model_folder(folder, option, next(iter(kinds.values())).example)
    if (kind := kind_of(path)) not in kinds:
        raise WeightsError(
            f"{folder} is a model of the kind {kind}: --{option} expects {' or '.join(kinds)}, such as a "
            f"download of {next(iter(kinds.values())).example}."
        )
    return kinds[kind]


def _check_length(tokenizer: Any, phrase: str, longest: int) -> None:
    """Raise DataError for a phrase of more tokens than a model reads."""
    count = len(tokenizer(phrase, truncation=False)["input_ids"])
    if count > longest:
        raise DataError(
            f"the phrase {phrase!r:.60} has {count} tokens, and this model reads at most {longest}: expected "
            "a few words; shorten it."
        )


def _detections(found: dict[str, Any], image: Image.Image) -> list[Detection]:
    """From boxes in pixels; what lies outside the picture is cut off."""
    detections = []
    for score, sides in zip(found["scores"].tolist(), found["boxes"].tolist()):
        x0, x1 = (min(max(side / image.width, 0.0), 1.0) for side in sides[0::2])
        y0, y1 = (min(max(side / image.height, 0.0), 1.0) for side in sides[1::2])
        if x0 < x1 and y0 < y1:
            detections.append(Detection(box=(x0, y0, x1, y1), score=score))
    return detections


def _white(mask: Image.Image, image: Image.Image) -> Bool[np.ndarray, "y x"]:
    if mask.size != image.size:
        raise DataError(
            f"the segmenter's mask is {mask.width} x {mask.height}: expected {image.width} x {image.height}, "
            "the size of the picture that it was shown."
        )
    return np.asarray(mask.convert("L")) > 127


def _picture(inside: Bool[np.ndarray, "y x"]) -> Image.Image:
    return Image.fromarray(inside.astype(np.uint8) * 255)
