"""The finders that a user gave for measuring, and hashes of their weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL.Image import Image

from mgie.errors import ConfigError
from mgie.evaluation.measures.features import weight_hashes
from mgie.models.finders import Detection, Detector, Segmenter, open_detector, open_segmenter
from mgie.types import Box

HINTS = {
    "detector": "a local folder with OWLv2 or Grounding DINO",
    "segmenter": "a local folder with SAM",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What finds things in pictures."""

    detector: Detector
    segmenter: Segmenter
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Option -> file of weights -> SHA-256."""

    @classmethod
    def open(
        cls,
        suite: str,
        needs: Sequence[str],
        folders: dict[str, str | Path | None],
        device: torch.device,
        *,
        now: bool = True,
    ) -> "Found":
        """The models of local folders, by option. Raises ConfigError for one that the suite needs or does not
        heed, WeightsError for what is none. Without `now` they are left unread: nothing is measured yet."""
        for option, folder in folders.items():
            if folder is not None and option not in needs:
                raise ConfigError(f"{option} has no place here: {suite} measures without one; leave it out.")
            if folder is None and option in needs and now:
                raise ConfigError(f"{suite} measures by a {option}: give --{option} DIR, {HINTS[option]}.")
        given = {option: Path(folder) for option, folder in folders.items() if folder is not None and now}
        detector = open_detector(given["detector"], device=device) if "detector" in given else _nobody
        segmenter = open_segmenter(given["segmenter"], device=device) if "segmenter" in given else _nothing
        hashes = {option: weight_hashes(folder) for option, folder in given.items()}
        return cls(detector=detector, segmenter=segmenter, hashes=hashes)

    def once(self, detect: Detector) -> Detector:
        """The same detector, which is asked once for each phrase of one picture."""
        kept: dict[str, Sequence[Detection]] = {}

        def detected(image: Image, phrase: str) -> Sequence[Detection]:
            if phrase not in kept:
                kept[phrase] = detect(image, phrase)
            return kept[phrase]

        return detected


def _nobody(image: Image, phrase: str) -> Sequence[Detection]:
    raise AssertionError(f"no detector was given for {phrase} in {image}")


def _nothing(image: Image, box: Box) -> Image:
    raise AssertionError(f"no segmenter was given for {box} in {image}")
